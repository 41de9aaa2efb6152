"""A worker process, started by `run`: loads one variant of a model and measures the requested cells."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unichoir.audio.fbank import compute_fbank
from unichoir.audio.io import Samples
from unichoir.benchmark.audio import rotated
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Cell, Variant
from unichoir.benchmark.prepare import load_calibration
from unichoir.benchmark.processes import memory_peak
from unichoir.engine.backend import Backend, Floats
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.search.greedy import ctc_greedy_search
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.rescoring import Rescorer, decoder_memory

PARTS = ("features", "encoder", "greedy", "beam", "rescoring")
MAX_CHUNKS, MAX_CHUNK_SECONDS = 8, 2.0
"""A measurement is the median of `MAX_CHUNKS` chunks, or of fewer if they take longer than `MAX_CHUNK_SECONDS`."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Facts about a loaded model."""

    seconds: float | None
    """Time to load in a new process, without imports, with files in the system's cache; None: generated, not loaded."""
    bytes_on_disk: int | None
    parameters: int
    memory: int
    """Peak memory after loading, in bytes."""
    tokens: int
    """Tokens that greedy search finds in the first utterance."""


@dataclass
class Worker:
    """Measures one variant. Created by the parent, used in its own process; times are in seconds."""

    variant: Variant
    candidate: Candidate
    folder: Path
    """The folder with the prepared models of its configuration."""
    samples: Samples
    options: BenchmarkOptions
    _backend: Any = None
    _streams: dict[int, tuple[Any, int]] = field(default_factory=dict)
    """The encoder's state for each number of streams, with the number of chunks processed so far."""

    def load(self) -> Loaded:
        """Load the model; must be called once, first."""
        seconds = size = None
        if self.variant.engine == "torch":
            self._backend = _torch_backend(self.candidate, self.folder, self.options.threads)
            parameters = sum(each.numel() for each in self._backend.model.parameters())
        else:
            directory = self.folder / self.variant.folder
            size = sum(map(_read, directory.iterdir()))
            start = time.perf_counter()
            self._backend = OnnxBackend(directory, self.options.threads)
            seconds = time.perf_counter() - start
            parameters = self._backend.config.parameters
        memory = memory_peak()
        log_probs = self._encode(self._features(self.options.seconds[0])[None])[1]
        tokens = len(ctc_greedy_search(log_probs[0], self._backend.info.blank_id).tokens)
        return Loaded(seconds=seconds, bytes_on_disk=size, parameters=parameters, memory=memory, tokens=tokens)

    def memory(self) -> int:
        """Return the peak memory so far, in bytes."""
        return memory_peak()

    def measure(self, cell: Cell) -> dict[str, float]:
        """Return the seconds of each part for all rows together: `PARTS` for an utterance, otherwise the encoder."""
        if cell.kind == "chunk":
            return {"encoder": self._chunks(cell.rows)}
        # A warm-up run: other processes have used the caches since the last call.
        if cell.kind == "utterance":
            self._encode(self._features(cell.seconds)[None])
            return self._utterance(cell.seconds)
        feats = np.stack(rotated(self._features(cell.seconds), cell.rows))
        self._encode(feats)
        start = time.perf_counter()
        self._encode(feats)
        return {"encoder": time.perf_counter() - start}

    def _features(self, seconds: float) -> Floats:
        fbank = self.candidate.fbank
        return compute_fbank(self.samples[: round(seconds * fbank.sample_rate)], fbank)

    def _encode(self, feats: Floats) -> tuple[Floats, Floats]:
        """Encode features (B, T, M) with full context to encoder_out (B, T', D) and CTC log-probs (B, T', V)."""
        backend: Backend = self._backend
        encoder_out, _ = encode_utterance(backend, feats, np.full(len(feats), feats.shape[1]))
        return encoder_out, backend.ctc_log_probs(encoder_out)

    def _utterance(self, seconds: float) -> dict[str, float]:
        blank_id, times = self._backend.info.blank_id, [time.perf_counter()]
        feats = self._features(seconds)
        times.append(time.perf_counter())
        (encoder_out,), (log_probs,) = self._encode(feats[None])
        times.append(time.perf_counter())
        ctc_greedy_search(log_probs, blank_id)
        times.append(time.perf_counter())
        hyps = ctc_prefix_beam_search(log_probs, blank_id=blank_id)
        times.append(time.perf_counter())
        memory = decoder_memory(self._backend.info, encoder_out, log_probs)
        Rescorer(self._backend, memory)(hyps)
        times.append(time.perf_counter())
        return dict(zip(PARTS, np.diff(times).tolist(), strict=True))

    def _chunks(self, streams: int) -> float:
        """Return the median time of one chunk for all streams, once all left chunks are filled."""
        info, options = self._backend.info, self.options
        hop = info.subsampling_rate * options.chunk_size
        width = hop - info.subsampling_rate + info.right_context + 1
        feats = np.stack(rotated(compute_fbank(self.samples, self.candidate.fbank), streams))
        lengths = np.full(streams, width)
        chunks_in_feats = max(1, (feats.shape[1] - width) // hop + 1)
        state, count = self._streams.get(streams, (None, 0))
        times: list[float] = []
        while not times or (len(times) < MAX_CHUNKS and sum(times) < MAX_CHUNK_SECONDS):
            begin = hop * (count % chunks_in_feats)
            window = np.ascontiguousarray(feats[:, begin : begin + width])
            start = time.perf_counter()
            _, _, state = self._backend.encode_chunk(window, lengths, state, options.chunk_size * options.left_chunks)
            if count > options.left_chunks:
                times.append(time.perf_counter() - start)
            count += 1
        self._streams[streams] = state, count
        return float(np.median(times))


def _read(path: Path) -> int:
    """Read a file into the system's cache; return its size."""
    size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(block)
    return size


def _torch_backend(candidate: Candidate, folder: Path, threads: int) -> Backend:
    import torch

    from unichoir.benchmark.calibrate import build_model
    from unichoir.engine.torch_backend import TorchBackend

    torch.set_num_threads(threads)
    model = build_model(candidate.model)
    load_calibration(folder).apply(model)
    return TorchBackend(model)
