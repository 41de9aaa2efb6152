"""Punctuation and English case, from a model directory or from sherpa-onnx's models (extra `punctuation`).

sherpa-onnx ends the process if it can't use a model, so models are checked before sherpa-onnx loads them.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unichoir.errors import CheckpointError, DecodingError, UnichoirError
from unichoir.text.english_punctuation import PUNCTUATION_FILE, load_english_punctuation
from unichoir.text.marked import NO_CONTEXT, Context, Marked, Punctuator
from unichoir.text.normalize import canonical_text, is_cjk

if TYPE_CHECKING:
    import numpy as np

MODEL_FILES = ("model.onnx", "model.int8.onnx")
"""The first existing file is used."""
VOCABULARY_FILE = "bpe.vocab"
"""Only the English models, which support case, have this file."""

_CASED_METADATA = {"COMMA": "1", "PERIOD": "2", "QUESTION": "3", "UPPER": "1", "CAP": "2", "MIX_CASE": "3"}
_SPACED_MARKS = {"\uff0c": ",", "\u3002": ".", "\uff1f": "?", "\u3001": ","}
"""Chinese marks and their equivalents in scripts with spaces."""
_ROW_LENGTH = 200
_MAX_WORD_BYTES = 60
"""Maximum bytes of a word: if one word has more pieces than a row, sherpa-onnx mixes up all words of the text."""
_MAX_WORDS = 1000
"""Maximum words per call: sherpa-onnx computes all rows of a text at once."""


@lru_cache(maxsize=4)
def load_punctuator(directory: str | Path) -> Punctuator:
    """Load the model in a directory, or the file `punctuation.onnx`.

    The directory holds `punctuation.onnx` or, in sherpa-onnx's layout, one of MODEL_FILES and, for English,
    `bpe.vocab`. Each model is loaded once. Raises CheckpointError for a directory without a usable model, UnichoirError
    if a model for sherpa-onnx is used without the extra.
    """
    folder = Path(directory)
    own = folder if folder.name == PUNCTUATION_FILE else folder / PUNCTUATION_FILE
    if own.is_file():
        return load_english_punctuation(own)
    file = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: no punctuation model ({' or '.join((PUNCTUATION_FILE, *MODEL_FILES))})")
    vocabulary = folder / VOCABULARY_FILE
    is_cased = vocabulary.is_file()
    session = _session(file)
    if is_cased:
        _check_vocabulary(vocabulary)
        _check_cased_model(session, file)
    else:
        _check_cjk_model(session, file)
    del session  # the weights need not be in memory twice
    try:
        import sherpa_onnx
    except ImportError:
        raise UnichoirError("punctuation needs sherpa-onnx: pip install 'unichoir[punctuation]'") from None
    if is_cased:
        cased = sherpa_onnx.OnlinePunctuationModelConfig(cnn_bilstm=str(file), bpe_vocab=str(vocabulary))
        return CasedPunctuator(sherpa_onnx.OnlinePunctuation(sherpa_onnx.OnlinePunctuationConfig(cased)))
    uncased = sherpa_onnx.OfflinePunctuationModelConfig(ct_transformer=str(file))
    return CjkPunctuator(sherpa_onnx.OfflinePunctuation(sherpa_onnx.OfflinePunctuationConfig(uncased)))


class CasedPunctuator:
    """sherpa-onnx's CNN-BiLSTM (`OnlinePunctuation`).

    It adds `,`, `.` or `?` after a word, and writes it in upper case, capitalised or in lower case.

    The model only knows lower case. It sets the case of transcripts in a single case. In mixed-case transcripts it adds
    capitals and removes none.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, words: Sequence[str], context: Context = NO_CONTEXT) -> list[Marked]:
        """Mark the words. Raises DecodingError if the model changes them."""
        if "".join(words).isupper():
            words = [word.lower() for word in words]
        return [
            marked
            for start in range(0, len(words), _MAX_WORDS)
            for marked in self._mark(words[start : start + _MAX_WORDS])
        ]

    def _mark(self, words: Sequence[str]) -> Iterator[Marked]:
        shown = [_shown(word) for word in words]
        given = self._model.add_punctuation_with_case(" ".join(shown)).split(" ")
        if [word.lower().rstrip(",.?") for word in given] != [plain.rstrip(",.?") for plain in shown]:
            raise DecodingError(f"the punctuation model does not give back '{_beginning(words)}'")
        for word, plain, new in zip(words, shown, given, strict=True):
            cased, mark = new[: len(plain)], new[len(plain) :]
            if cased == plain:
                yield Marked(word, mark)
            elif cased == plain.capitalize():
                yield Marked(word[0].upper() + word[1:], mark)
            else:
                yield Marked(word.upper(), mark)


class CjkPunctuator:
    """sherpa-onnx's CT-transformer (`OfflinePunctuation`) for Chinese with English.

    It adds a comma, full stop, question mark or enumeration comma after a word: full-width after a CJK character, else
    `,`, `.` or `?`. The last word always gets a mark.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, words: Sequence[str], context: Context = NO_CONTEXT) -> list[Marked]:
        """Mark the words. Raises DecodingError if the model changes them."""
        if not words:
            return []
        shown = ["".join("#" if not c.isprintable() or c in _SPACED_MARKS else c for c in word) for word in words]
        text = self._model.add_punctuation(canonical_text(" ".join(shown)))
        rest = [character for character in text if not character.isspace()][::-1]
        marked = []
        for word, plain in zip(words, shown, strict=True):
            for character in "".join(plain.split()):
                # The model treats letters outside ASCII as words, so a mark inside one of our words is ignored.
                while rest and rest[-1] in _SPACED_MARKS:
                    rest.pop()
                if not rest or rest.pop() != character:
                    raise DecodingError(f"the punctuation model does not give back '{_beginning(words)}'")
            mark = rest.pop() if rest and rest[-1] in _SPACED_MARKS else ""
            marked.append(Marked(word, mark if is_cjk(word[-1:]) else _SPACED_MARKS.get(mark, mark)))
        return marked


def _shown(word: str) -> str:
    """Return an English model's input for a word: one run of lower-case ASCII characters, neither empty nor too long.

    Other characters are unknown to the model anyway, and its definition of white space differs from ours.
    """
    plain = "".join(character if "!" <= character <= "~" else "#" for character in word.lower())
    return plain[:_MAX_WORD_BYTES] or "#"


def _beginning(words: Sequence[str]) -> str:
    return " ".join(words[:10])[:80]


def _session(file: Path) -> Any:
    import onnxruntime

    from unichoir.saturation import saturates  # which needs it too

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1" if saturates() else "0")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # many types, without a common base
        raise CheckpointError(f"{file}: not a model that ONNX Runtime loads: {_first_line(error)}") from None


def _check_vocabulary(file: Path) -> None:
    """Check that lines have a piece and its score."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        for _, score in lines:
            float(score)
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: not text in UTF-8") from None
    except ValueError:
        raise CheckpointError(f"{file}: expected lines with a piece and its score") from None
    if len(lines) <= 3:
        raise CheckpointError(f"{file}: no pieces except <unk>, <s> and </s>")


def _check_cased_model(session: Any, file: Path) -> None:
    """Check the model with a row of one word, which sherpa-onnx wouldn't."""
    metadata = session.get_modelmeta().custom_metadata_map
    for key, value in _CASED_METADATA.items():
        if metadata.get(key) != value:
            raise CheckpointError(
                f"{file}: not an English punctuation model of sherpa-onnx: its metadata has no {key} = {value}"
            )
    import numpy as np

    row = np.zeros((1, _ROW_LENGTH), np.int32)
    token_ids, valid_ids = row.copy(), row.copy()
    token_ids[0, :3] = 1, 3, 2  # <s>, a piece, </s>
    valid_ids[0, :3] = 1
    shapes = _output_shapes(session, file, [token_ids, valid_ids, np.array([3], np.int32)])[:2]
    if len(shapes) != 2 or any(len(shape) != 2 or shape[0] != 1 or shape[1] < 4 for shape in shapes):
        raise CheckpointError(f"{file}: gives outputs of shapes {shapes} for one word, not [(1, 4), (1, 4)]")


def _check_cjk_model(session: Any, file: Path) -> None:
    metadata = session.get_modelmeta().custom_metadata_map
    for key in ("tokens", "vocab_size", "punctuations", "unk_symbol"):
        if not metadata.get(key):
            raise CheckpointError(
                f"{file}: not a punctuation model of sherpa-onnx: its metadata has no {key} "
                f"(an English model comes with {VOCABULARY_FILE})"
            )
    import numpy as np

    tokens, marks = metadata["tokens"].split("|"), metadata["punctuations"].split("|")
    if str(len(tokens)) != metadata["vocab_size"]:
        raise CheckpointError(f"{file}: {len(tokens)} tokens, but vocab_size {metadata['vocab_size']}")
    if metadata["unk_symbol"] not in tokens:
        raise CheckpointError(f"{file}: unk_symbol '{metadata['unk_symbol']}' is not one of its tokens")
    if missing := [mark for mark in ("_", *_SPACED_MARKS) if mark not in marks]:
        raise CheckpointError(f"{file}: its punctuations lack {' '.join(missing)}")
    shapes = _output_shapes(session, file, [np.zeros((1, 2), np.int32), np.array([2], np.int32)])[:1]
    if shapes != [(1, 2, len(marks))]:
        raise CheckpointError(f"{file}: gives outputs of shapes {shapes} for two tokens, not [(1, 2, {len(marks)})]")


def _output_shapes(session: Any, file: Path, values: "Sequence[np.ndarray[Any, Any]]") -> list[tuple[int, ...]]:
    """Return the shapes of a test run. Sizes that sherpa-onnx reads from the model must be fixed."""
    names = [value.name for value in session.get_inputs()]
    if len(names) != len(values):
        raise CheckpointError(f"{file}: {len(names)} inputs, not {len(values)}")
    try:
        outputs = session.run(None, dict(zip(names, values, strict=True)))
    except Exception as error:  # many types, without a common base
        raise CheckpointError(f"{file}: cannot be computed: {_first_line(error)}") from None
    for value, output in zip(session.get_outputs(), outputs, strict=True):
        if value.shape and value.shape[-1] != output.shape[-1]:
            raise CheckpointError(f"{file}: output {value.name} has no fixed number of classes")
    return [output.shape for output in outputs]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
