"""What a worker of the fleet does: recognise the utterances of one chunk after the other."""

import os
import pickle
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unichoir.api import load_recognizer
from unichoir.audio.io import Samples
from unichoir.data.storage import is_url
from unichoir.data.utterance import Utterance, estimated_duration, load_utterance
from unichoir.engine.device import Device
from unichoir.errors import AudioError, ConfigError, UnichoirError
from unichoir.fleet.results import Chunk, Result
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.options import DEFAULT_LM

if TYPE_CHECKING:
    from ray.actor import ActorHandle

MAX_BATCH = 8
"""Recordings recognised together; more gained nothing on a CPU (docs/results/fleets.md)."""
MAX_BATCH_SECONDS = 160.0
"""Of audio in a batch, as long as its longest recording would make it: memory has a limit."""
MAX_DEATHS = 2
"""Workers that one utterance may take with it while nothing else is in work."""
MIN_GPU_SHARE = 0.01


@dataclass(frozen=True)
class ModelSource:
    """Which model, as all workers can load it. Raises ConfigError for a share of a GPU that is none."""

    name_or_dir: str
    threads: int | None = None
    top_k: int | None = None
    device: Device = "cpu"
    gpu_share: float = 1.0
    """Of one GPU, with `cuda`: as many workers as it has room for share its memory."""
    language_model: str | None = DEFAULT_LM
    """As `api.load_model` takes it."""

    def __post_init__(self) -> None:
        if not MIN_GPU_SHARE <= self.gpu_share <= 1:
            raise ConfigError(f"GPUs of a worker: expected {MIN_GPU_SHARE} to 1, found {self.gpu_share}")

    @property
    def num_gpus(self) -> float:
        """What a worker asks the cluster for."""
        return self.gpu_share if self.device == "cuda" else 0.0

    def load(self) -> Recognizer:
        """As `api.load_recognizer` does."""
        return load_recognizer(self.name_or_dir, self.threads, self.top_k, self.device, self.language_model)


@dataclass(frozen=True)
class Done:
    """What became of a chunk."""

    number: int
    results: list[Result]
    attempt: int
    """1, or more when workers have died."""
    seconds: float
    """In which the worker had the chunk."""
    worker: str


@dataclass
class Attempts:
    """An actor beside the driver, which outlives the workers: it knows what they were doing when they died."""

    _attempts: Counter[int] = field(default_factory=Counter)
    _in_work: dict[int, list[str]] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)

    def start(self, number: int) -> tuple[int, set[str]]:
        """A worker takes a chunk: which attempt this is, and the utterances not to be tried again."""
        self._attempts[number] += 1
        keys = self._in_work.pop(number, [])
        if len(keys) == 1:  # of several nobody knows which it was: alone they will tell
            self._deaths.update(keys)
        return self._attempts[number], {key for key, deaths in self._deaths.items() if deaths >= MAX_DEATHS}

    def begin(self, number: int, keys: list[str]) -> None:
        """The worker of a chunk goes on to these utterances."""
        self._in_work[number] = keys


class Worker:
    """An actor with the model. Ray Data calls it with a row whose `chunk` is a pickled Chunk.

    The row that it gives back has a pickled Done under `done` or, where the model cannot work at all, the message.
    """

    def __init__(self, source: ModelSource, options: DecodingOptions, attempts: "ActorHandle[Attempts]") -> None:
        self._source = source
        self._options = options
        self._attempts = attempts
        self._recognizer: Recognizer | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Recognise a chunk."""
        try:
            # Loaded here, not when the worker starts: only so do errors reach the driver as what they are.
            if self._recognizer is None:
                self._recognizer = self._load()
        except UnichoirError as error:
            return {"done": pickle.dumps(str(error))}
        return {"done": pickle.dumps(self._recognize(self._recognizer, pickle.loads(row["chunk"])))}

    def _load(self) -> Recognizer:
        recognizer = self._source.load()
        # What the model cannot do shows with any audio, and is no fault of the recordings.
        recognizer.recordings.recognize(np.zeros(recognizer.fbank_config.sample_rate, np.float32), self._options)
        return recognizer

    def _recognize(self, recognizer: Recognizer, chunk: Chunk) -> Done:
        import ray

        begun = time.perf_counter()
        attempt, given_up = ray.get(self._attempts.start.remote(chunk.number))
        found: dict[str, Result] = {key: {"error": f"{MAX_DEATHS} workers died over it"} for key in given_up}
        left = [utterance for utterance in chunk.utterances if utterance.key not in given_up]
        for batch in make_batches(left, MAX_BATCH if attempt == 1 else 1):
            ray.get(self._attempts.begin.remote(chunk.number, [utterance.key for utterance in batch]))
            for utterance, result in zip(batch, recognize(recognizer, batch, self._options), strict=True):
                found[utterance.key] = result
        return Done(
            number=chunk.number,
            results=[{"key": utterance.key, **found[utterance.key]} for utterance in chunk.utterances],
            attempt=attempt,
            seconds=time.perf_counter() - begun,
            worker=f"{socket.gethostname()}:{os.getpid()}",
        )


def make_batches(utterances: Sequence[Utterance], most: int) -> list[list[Utterance]]:
    """At most so many of similar length each, so that little is filled up, and not too much audio at once."""
    batches: list[list[Utterance]] = []
    for seconds, utterance in sorted(((_seconds(each), each) for each in utterances), key=lambda pair: pair[0]):
        if batches and len(batches[-1]) < most and seconds * (len(batches[-1]) + 1) <= MAX_BATCH_SECONDS:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches


def _seconds(utterance: Utterance) -> float:
    if utterance.duration is None and is_url(utterance.wav):  # to be fetched once only, then, and by itself
        return MAX_BATCH_SECONDS
    try:
        return estimated_duration(utterance)
    except AudioError:  # which will be told when it is loaded
        return 0.0


def recognize(recognizer: Recognizer, batch: Sequence[Utterance], options: DecodingOptions) -> list[Result]:
    """For each utterance what `Transcript.to_dict` gives or, under `error`, why there is none."""
    rate = recognizer.fbank_config.sample_rate
    loaded = [_load(utterance, rate) for utterance in batch]
    recordings = [samples for samples, _ in loaded if not isinstance(samples, str)]
    found = iter(_recognize_together(recognizer, recordings, options))
    return [
        {"error": samples} if isinstance(samples, str) else {**next(found), **warnings} for samples, warnings in loaded
    ]


def _load(utterance: Utterance, sample_rate: int) -> tuple[Samples | str, Result]:
    """The samples, or why there are none; and under `warnings` what is missing, if something is."""
    warnings: list[str] = []
    try:
        samples = load_utterance(utterance, sample_rate, warnings.append)
    except AudioError as error:
        return str(error), {}
    return samples, {"warnings": warnings} if warnings else {}


def _recognize_together(
    recognizer: Recognizer, recordings: Sequence[Samples], options: DecodingOptions
) -> list[Result]:
    """What fails for one recording is the error of that one: the others are recognised by themselves."""
    if not recordings:
        return []
    try:
        return [transcript.to_dict() for transcript in recognizer.recordings.recognize_batch(recordings, options)]
    except Exception as error:
        if len(recordings) == 1:
            return [{"error": str(error) if isinstance(error, UnichoirError) else repr(error)}]
    return [result for each in recordings for result in _recognize_together(recognizer, [each], options)]
