"""Prepare the models to measure: random weights, calibrated and exported, in folders that are complete or absent.

Called by `run`, and by `serving.prepared` for the server's benchmark.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import compute_fbank
from unichoir.audio.io import Samples
from unichoir.benchmark.plan import GB, BenchmarkOptions, Candidate, Variant, preparation_memory
from unichoir.benchmark.processes import Child, first_to_answer
from unichoir.configuration import to_mapping
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import CTC_FILE, ENCODER_FILE, FORMAT_VERSION, OnnxBackend
from unichoir.errors import CheckpointError

if TYPE_CHECKING:
    from unichoir.benchmark.calibrate import Calibration

CALIBRATION_FILE = "calibration.npz"
CALIBRATION_SECONDS = 10.0
"""The torch model is calibrated on this much audio, the beginning of the benchmark's audio."""


@contextlib.contextmanager
def prepared_models(
    candidates: Sequence[Candidate],
    variants: Sequence[Variant],
    samples: Samples,
    options: BenchmarkOptions,
    models: Path | None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Path]]:
    """Prepare the models for all variants; yield the folder of each configuration, by name.

    models: folder that keeps the models for later runs with the same settings; None: they are deleted at the end.
    progress: called when the preparation of a configuration begins.

    Configurations are prepared in parallel, each in its own process, as far as memory allows.
    """
    with contextlib.ExitStack() as stack:
        root = models or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unichoir-benchmark-")))
        root.mkdir(parents=True, exist_ok=True)
        jobs = []
        for candidate in candidates:
            job = Preparation(
                candidate=candidate,
                samples=samples,
                folders=frozenset(each.folder for each in variants if each.config == candidate.name and each.exported),
                root=root,
            )
            jobs.append(job)
        _run_all([job for job in jobs if job.missing()], options, progress)
        yield {job.candidate.name: job.home for job in jobs}


def _run_all(jobs: Sequence["Preparation"], options: BenchmarkOptions, progress: Callable[[str], None]) -> None:
    """Run up to `options.threads` jobs at a time, the largest first, and fewer if memory does not allow it."""
    pending = sorted(jobs, key=lambda job: job.memory, reverse=True)
    running: dict[Child, Preparation] = {}
    try:
        while pending or running:
            for job in list(pending):
                used = sum(each.memory for each in running.values())
                if not running or (len(running) < options.threads and used + job.memory <= options.memory_gb * GB):
                    pending.remove(job)
                    shutil.rmtree(job.partial, ignore_errors=True)
                    job.partial.mkdir()
                    process = Child(job, f"preparing {job.candidate.name}")
                    running[process] = job
                    process.ask("run")
                    progress(process.name)
            process = first_to_answer(running)
            process.answer()
            running[process].publish()
            running.pop(process)
            process.close()
    finally:
        for process, job in running.items():
            process.close()
            shutil.rmtree(job.partial, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The preparation of one configuration. `run` is called in a separate process, to free its memory afterwards."""

    candidate: Candidate
    samples: Samples
    """The benchmark's audio."""
    folders: frozenset[str]
    """Names of the required model directories (`Variant.folder`)."""
    root: Path

    @property
    def home(self) -> Path:
        """The configuration's folder; its name contains a hash of everything that the models depend on."""
        from unichoir.benchmark.calibrate import SEED, TRAINED_SHARES

        candidate = self.candidate
        settings = [to_mapping(candidate.model), to_mapping(candidate.fbank), SEED, TRAINED_SHARES, FORMAT_VERSION]
        digest = hashlib.sha256(json.dumps([*settings, metadata.version("unichoir")]).encode() + self.samples.tobytes())
        return self.root / f"{candidate.name}-{digest.hexdigest()[:8]}"

    @property
    def partial(self) -> Path:
        """The temporary folder that is written until it is complete."""
        return self.root / f".{self.home.name}.partial"

    @property
    def memory(self) -> float:
        """The estimated memory in bytes."""
        return preparation_memory(self.candidate, self.folders)

    def missing(self) -> list[str]:
        """Return what does not exist yet, the calibration first: everything else depends on it."""
        return [name for name in (CALIBRATION_FILE, *sorted(self.folders)) if not (self.home / name).exists()]

    def run(self) -> None:
        """Write everything that is missing into `partial`."""
        import torch

        from unichoir.benchmark.calibrate import build_model, calibrate
        from unichoir.export.onnx import write_graphs

        torch.set_num_threads(1)  # other configurations are prepared in parallel
        model, missing, fbank = build_model(self.candidate.model), self.missing(), self.candidate.fbank
        if CALIBRATION_FILE in missing:
            samples = self.samples[: round(CALIBRATION_SECONDS * fbank.sample_rate)]
            calibration = calibrate(model, compute_fbank(samples, fbank))
            calibration.save(self.partial / CALIBRATION_FILE)
        else:
            calibration = load_calibration(self.home)
            calibration.apply(model)
        if "fp32" in missing:
            self._folder("fp32").mkdir()
            write_graphs(model, fbank, self._folder("fp32"), None)
        if "int8" in missing:
            self._folder("int8").mkdir()
            write_graphs(model, fbank, self._folder("int8"), "int8")
            self._calibrate_blank(self._folder("int8"), calibration)
        if "int8-uniform" in missing:
            source, target = self._folder("int8"), self._folder("int8-uniform")
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(f"{ENCODER_FILE}*"))
            exchange(source / ENCODER_FILE, target / ENCODER_FILE, calibration.routers, calibration.uniform_routers)

    def _calibrate_blank(self, folder: Path, calibration: "Calibration") -> None:
        """Restore the blank share: a random model's frames differ little, so rounding to int8 changes it a lot."""
        from unichoir.benchmark.calibrate import blank_shift

        backend = OnnxBackend(folder, num_threads=1)
        feats = compute_fbank(self.samples, self.candidate.fbank)
        encoder_out, _ = encode_utterance(backend, feats[None], np.array([len(feats)]))
        blank, bias = backend.info.blank_id, calibration.ctc_bias.copy()
        bias[blank] += blank_shift(backend.ctc_log_probs(encoder_out)[0], blank)
        exchange(folder / CTC_FILE, folder / CTC_FILE, {"ctc": calibration.ctc_bias}, {"ctc": bias})

    def _folder(self, name: str) -> Path:
        home = self.home / name
        return home if home.exists() else self.partial / name

    def publish(self) -> None:
        """Move the finished files from `partial` to `home`."""
        self.home.mkdir(exist_ok=True)
        for name in self.missing():
            os.replace(self.partial / name, self.home / name)
        shutil.rmtree(self.partial)


def load_calibration(home: Path) -> "Calibration":
    """Load the calibration from a configuration's folder. Raises CheckpointError if it is damaged."""
    from unichoir.benchmark.calibrate import Calibration

    return Calibration.load(home / CALIBRATION_FILE)


def exchange(
    source: Path,
    target: Path,
    old: Mapping[str, NDArray[np.float32]],
    new: Mapping[str, NDArray[np.float32]],
) -> None:
    """Write the graph `source` to `target`, replacing the weights old[name] (or their transpose) by new[name].

    Avoids a second export of the same model, which takes a hundred times longer. Raises CheckpointError if the graph
    does not contain one of the old weights exactly once.
    """
    import onnx_ir as ir

    from unichoir.export import graph

    model = ir.load(source)
    for name, weight in new.items():
        before, found = old[name], 0
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tuple(tensor.shape.numpy()) not in (before.shape, before.shape[::-1]):
                continue
            for was, becomes in ((before, weight), (before.T, weight.T)):
                if was.shape == tuple(tensor.shape.numpy()) and np.array_equal(tensor.numpy(), was):
                    value.const_value = ir.tensor(np.ascontiguousarray(becomes), name=tensor.name)
                    found += 1
                    break
        if found != 1:
            raise CheckpointError(f"{source}: expected the weights of {name} once, found them {found} times")
    graph.save(model, target)
