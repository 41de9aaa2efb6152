"""A worker of the fleet: recognises the utterances of one chunk after another."""

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
"""Recordings recognised together; larger batches were no faster on a CPU (docs/results/fleets.md)."""
MAX_BATCH_SECONDS = 160.0
"""Seconds of audio in a batch, including padding to its longest recording; limits memory."""
MAX_DEATHS = 2
"""Workers that may die while they recognise the same single utterance; after that it fails."""
MIN_GPU_SHARE = 0.01
"""The smallest share of a GPU that a worker can have."""


@dataclass(frozen=True)
class ModelSource:
    """A model in a form that all workers can load. Raises ConfigError for an invalid share of a GPU."""

    name_or_dir: str
    threads: int | None = None
    top_k: int | None = None
    device: Device = "cpu"
    gpu_share: float = 1.0
    """The share of one GPU that a worker uses, with `cuda`; workers on the same GPU share its memory."""
    language_model: str | None = DEFAULT_LM
    """As in `api.load_model`."""

    def __post_init__(self) -> None:
        if not MIN_GPU_SHARE <= self.gpu_share <= 1:
            raise ConfigError(f"GPUs of a worker: expected {MIN_GPU_SHARE} to 1, found {self.gpu_share}")

    @property
    def num_gpus(self) -> float:
        """The GPUs that a worker requests from the cluster."""
        return self.gpu_share if self.device == "cuda" else 0.0

    def load(self) -> Recognizer:
        """Load the model; raises as `api.load_recognizer` does."""
        return load_recognizer(self.name_or_dir, self.threads, self.top_k, self.device, self.language_model)


@dataclass(frozen=True)
class Done:
    """The outcome of a chunk."""

    number: int
    results: list[Result]
    attempt: int
    """1, or more if workers have died."""
    seconds: float
    """Time that the worker spent on the chunk."""
    worker: str
    """Host and process ID."""


@dataclass
class Attempts:
    """An actor on the driver's node that outlives the workers and records what they were doing when they died."""

    _attempts: Counter[int] = field(default_factory=Counter)
    _in_work: dict[int, list[str]] = field(default_factory=dict)
    _deaths: Counter[str] = field(default_factory=Counter)

    def start(self, number: int) -> tuple[int, set[str]]:
        """Record that a worker starts a chunk; return the attempt's number and the keys of utterances to give up."""
        self._attempts[number] += 1
        keys = self._in_work.pop(number, [])
        if len(keys) == 1:  # with several, the cause is unknown; the next attempt runs them one by one
            self._deaths.update(keys)
        return self._attempts[number], {key for key, deaths in self._deaths.items() if deaths >= MAX_DEATHS}

    def begin(self, number: int, keys: list[str]) -> None:
        """Record that the worker of a chunk begins these utterances."""
        self._in_work[number] = keys


class Worker:
    """An actor that holds the model. Ray Data calls it with a row whose `chunk` is a pickled Chunk.

    The returned row has a pickled Done under `done`, or the error message if the model cannot work at all.
    """

    def __init__(self, source: ModelSource, options: DecodingOptions, attempts: "ActorHandle[Attempts]") -> None:
        self._source = source
        self._options = options
        self._attempts = attempts
        self._recognizer: Recognizer | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Recognise a chunk."""
        try:
            # Loaded here, not when the worker starts: errors then reach the driver with their own message.
            if self._recognizer is None:
                self._recognizer = self._load()
        except UnichoirError as error:
            return {"done": pickle.dumps(str(error))}
        return {"done": pickle.dumps(self._recognize(self._recognizer, pickle.loads(row["chunk"])))}

    def _load(self) -> Recognizer:
        recognizer = self._source.load()
        # Options that the model does not support must fail the whole job, not each recording.
        recognizer.recordings.recognize(np.zeros(recognizer.fbank_config.sample_rate, np.float32), self._options)
        return recognizer

    def _recognize(self, recognizer: Recognizer, chunk: Chunk) -> Done:
        import ray

        begun = time.perf_counter()
        attempt, given_up = ray.get(self._attempts.start.remote(chunk.number))
        found: dict[str, Result] = {
            key: {"error": f"{MAX_DEATHS} workers died while recognising it"} for key in given_up
        }
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
    """Group utterances of similar length, at most `most` each and within `MAX_BATCH_SECONDS`, to keep padding small."""
    batches: list[list[Utterance]] = []
    for seconds, utterance in sorted(((_seconds(each), each) for each in utterances), key=lambda pair: pair[0]):
        if batches and len(batches[-1]) < most and seconds * (len(batches[-1]) + 1) <= MAX_BATCH_SECONDS:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches


def _seconds(utterance: Utterance) -> float:
    if utterance.duration is None and is_url(utterance.wav):  # measuring it would download it twice: a batch of its own
        return MAX_BATCH_SECONDS
    try:
        return estimated_duration(utterance)
    except AudioError:  # reported when the audio is loaded
        return 0.0


def recognize(recognizer: Recognizer, batch: Sequence[Utterance], options: DecodingOptions) -> list[Result]:
    """Return, for each utterance, the values of `Transcript.to_dict`, or the reason for its failure under `error`."""
    rate = recognizer.fbank_config.sample_rate
    loaded = [_load(utterance, rate) for utterance in batch]
    recordings = [samples for samples, _ in loaded if not isinstance(samples, str)]
    found = iter(_recognize_together(recognizer, recordings, options))
    return [
        {"error": samples} if isinstance(samples, str) else {**next(found), **warnings} for samples, warnings in loaded
    ]


def _load(utterance: Utterance, sample_rate: int) -> tuple[Samples | str, Result]:
    """Return the samples, or the reason for failure; and, if parts of the audio are missing, `warnings`."""
    warnings: list[str] = []
    try:
        samples = load_utterance(utterance, sample_rate, warnings.append)
    except AudioError as error:
        return str(error), {}
    return samples, {"warnings": warnings} if warnings else {}


def _recognize_together(
    recognizer: Recognizer, recordings: Sequence[Samples], options: DecodingOptions
) -> list[Result]:
    """Recognise a batch; if it fails, recognise each recording separately to find the failing ones."""
    if not recordings:
        return []
    try:
        return [transcript.to_dict() for transcript in recognizer.recordings.recognize_batch(recordings, options)]
    except Exception as error:
        if len(recordings) == 1:
            return [{"error": str(error) if isinstance(error, UnichoirError) else repr(error)}]
    return [result for each in recordings for result in _recognize_together(recognizer, [each], options)]
