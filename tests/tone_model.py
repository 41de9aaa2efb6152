"""A recogniser of three tones: a model small enough to know in advance what it must find, and when."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.engine.backend import ModelInfo
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.stream import Stream
from unichoir.text.tokenizer import BpeTokenizer
from unichoir.transcript.results import StreamResult

RATE = 16000
TONES = {3: 500.0, 4: 1500.0, 5: 3500.0}
TOKENS = ["<blank>", "<unk>", "<sos/eos>", "\u2581low", "\u2581mid", "high"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@dataclass
class ToneBackend:
    """Encoder: mean of seven feature frames. CTC: the tone whose band is loud, else blank. Decoders: random tables.

    Its state: how many frames each row has heard.
    """

    seed: int = 0
    fbank: FbankConfig = field(default_factory=FbankConfig)
    windows: list[tuple[tuple[int, ...], list[int], int]] = field(default_factory=list)
    """Of each call of encode_chunk: shape of feats, feats_lengths, num_left_frames."""

    def __post_init__(self) -> None:
        self.info = ModelInfo(
            vocab_size=len(TOKENS), encoder_dim=80, sos_id=2, eos_id=2, has_reverse_decoder=True, reverse_weight=0.3
        )
        rng = np.random.default_rng(self.seed)
        self.after = rng.normal(size=(2, len(TOKENS), len(TOKENS)))
        self.place = rng.normal(size=(2, 50, len(TOKENS)))
        tone = {t: np.sin(2 * np.pi * hz * np.arange(RATE) / RATE).astype(np.float32) for t, hz in TONES.items()}
        self.bands = {t: int(compute_fbank(wave, self.fbank).mean(axis=0).argmax()) for t, wave in tone.items()}

    def encode_chunk(self, feats: Any, feats_lengths: Any, state: Any, num_left_frames: int) -> Any:
        self.windows.append((feats.shape, feats_lengths.tolist(), num_left_frames))
        lens = np.array([self.info.num_encoder_frames(int(n)) for n in feats_lengths], dtype=np.int64)
        width = self.info.num_encoder_frames(feats.shape[1])
        encoder_out = sum(feats[:, k : k + 4 * width : 4][:, :width] for k in range(7)) / np.float32(7)
        encoder_out[np.arange(width) >= lens[:, None]] = 0.0
        heard = self.initial_state(len(feats), num_left_frames) if state is None else state
        return encoder_out, lens, [frames + length for frames, length in zip(heard, lens.tolist(), strict=True)]

    def initial_state(self, batch_size: int, num_left_frames: int) -> list[int]:
        return [0] * batch_size

    def join_states(self, states: Any) -> list[int]:
        return [row for state in states for row in state]

    def split_state(self, state: list[int]) -> list[list[int]]:
        return [[row] for row in state]

    def restart_positions(self, state: list[int]) -> list[int]:
        return state

    def ctc_log_probs(self, encoder_out: Any) -> Any:
        logits = np.full((*encoder_out.shape[:2], len(TOKENS)), -8.0)
        logits[..., 0] = 0.0
        nepers = self.fbank.decibels / FbankConfig().decibels
        for token, band in self.bands.items():
            logits[..., token] = ((encoder_out[..., band] - encoder_out.mean(axis=2)) * nepers - 4.0) * 3
        return log_softmax(logits).astype(np.float32)

    def next_token(self, reverse: bool, encoder_out: Any, prefix: list[int]) -> np.ndarray:
        hint = np.resize(encoder_out.mean(axis=0), len(TOKENS)) / 5
        return log_softmax(self.after[int(reverse), prefix[-1]] + self.place[int(reverse), len(prefix)] + hint)

    def decoder(self, encoder_out: Any, reverse: bool = False) -> "ToneDecoder":
        return ToneDecoder(self, encoder_out, reverse)


@dataclass
class ToneDecoder:
    """A decoder without a cache: computes every row anew."""

    backend: ToneBackend
    encoder_out: Any
    reverse: bool

    def continuations(self, hyps: Any) -> list[np.ndarray]:
        return [
            np.stack(
                [self.backend.next_token(self.reverse, self.encoder_out, [2, *hyp[:n]]) for n in range(len(hyp) + 1)]
            )
            for hyp in hyps
        ]


@pytest.fixture
def backend() -> ToneBackend:
    return ToneBackend()


@pytest.fixture
def tokenizer() -> BpeTokenizer:
    return BpeTokenizer(TOKENS, None)


@pytest.fixture
def recognizer(backend: ToneBackend, tokenizer: BpeTokenizer) -> Recognizer:
    return Recognizer(backend, tokenizer, FbankConfig())


@pytest.fixture
def any_recognizer(request: pytest.FixtureRequest, tokenizer: BpeTokenizer) -> Recognizer:
    """The recogniser with the kind of features that the test names; Whisper's have the layout its convolutions need."""
    edges = {"lead_frames": 2, "trail_frames": 20} if request.param == "whisper" else {}
    config = FbankConfig(kind=request.param, **edges)
    return Recognizer(ToneBackend(fbank=config), tokenizer, config)


@pytest.fixture
def encoder_out() -> np.ndarray:
    """Random encoder output (6, 80)."""
    return np.random.default_rng(7).normal(size=(6, 80)).astype(np.float32)


@pytest.fixture
def play():
    """Make audio of tones (token, start in s, end in s), over faint noise with occasional tones or over silence."""

    def play(tones: list[tuple[int, float, float]], seconds: float, seed: int = 0, noise: float = 1e-4) -> np.ndarray:
        samples = np.random.default_rng(seed).normal(0, noise, int(seconds * RATE))
        for token, start, end in tones:
            first, last = int(start * RATE), int(end * RATE)
            samples[first:last] += 0.3 * np.sin(2 * np.pi * TONES[token] * np.arange(last - first) / RATE)
        return samples.astype(np.float32)

    return play


@dataclass
class Heard:
    """Everything that one stream returned."""

    finals: list[StreamResult] = field(default_factory=list)
    partials: list[StreamResult] = field(default_factory=list)
    """Those asked for after each chunk, where there was no endpoint."""
    encoder_out: list[np.ndarray] = field(default_factory=list)
    """(T', D) of each final result."""

    @property
    def text(self) -> str:
        return " ".join(result.text for result in self.finals if result.text)

    def finish(self, recognizer: Recognizer, stream: Stream) -> None:
        while recognizer.streams.is_endpoint(stream):
            assert not recognizer.streams.is_ready(stream)
            self.finals.append(recognizer.streams.get_result(stream))
            self.encoder_out.append(stream.utterance.encoder_out)
            recognizer.streams.reset(stream)

    def decode(self, recognizer: Recognizer, stream: Stream) -> None:
        while recognizer.streams.is_ready(stream):
            recognizer.streams.decode_streams([stream])
            if not recognizer.streams.is_endpoint(stream):
                self.partials.append(recognizer.streams.get_result(stream))
            self.finish(recognizer, stream)


Listen = Callable[..., Heard]


@pytest.fixture(scope="session")
def listen() -> Listen:
    """Run a stream on blocks of samples, decoding as soon as possible."""

    def listen(recognizer: Recognizer, stream: Stream, blocks: Iterable[np.ndarray], rate: int = RATE) -> Heard:
        heard = Heard()
        for block in blocks:
            stream.accept_waveform(block, rate)
            heard.decode(recognizer, stream)
        stream.input_finished()
        heard.decode(recognizer, stream)
        heard.finish(recognizer, stream)
        return heard

    return listen
