"""A model that is ready to recognise recordings and streams."""

from pathlib import Path

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.backend import Backend
from unichoir.errors import DecodingError
from unichoir.recognition.recordings import RecordingRecognizer
from unichoir.recognition.streams import StreamRecognizer
from unichoir.search.scoring import LanguageModel
from unichoir.search.search import Search
from unichoir.text.tokenizer import Tokenizer
from unichoir.transcript.reader import Reader
from unichoir.transcript.timing import FrameClock


class Recognizer:
    """The parts of a model and what they are assembled to: `recordings` and `streams`, which share all of them.

    It holds no state between calls. punctuation: the model's file for punctuation and case in English, if it has one.
    Raises DecodingError if the tokenizer does not fit the model.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        fbank_config: FbankConfig,
        language_model: LanguageModel | None = None,
        punctuation: Path | None = None,
    ) -> None:
        info = backend.info
        if tokenizer.vocab_size != info.vocab_size:
            raise DecodingError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {info.vocab_size}: they do not match"
            )
        self.backend = backend
        self.tokenizer = tokenizer
        self.fbank_config = fbank_config
        self.search = Search(backend, tokenizer, language_model)
        clock = FrameClock.of(info, fbank_config)
        self.reader = Reader(tokenizer, self.search.languages, info, clock, punctuation)
        self.recordings = RecordingRecognizer(fbank_config, backend, self.search, self.reader)
        self.streams = StreamRecognizer(fbank_config, backend, self.search, self.reader)
