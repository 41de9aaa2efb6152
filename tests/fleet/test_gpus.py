"""`--ray --device cuda` on a cluster that claims to have two GPUs: where workers run, and when none can run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fleet.helpers import free_port
from tests.samples import SMALL_MODEL, WITH_SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.errors import ConfigError, UnichoirError
from unichoir.fleet import cluster as fleet_cluster
from unichoir.fleet.serve import Scaling, deploy, make_application, remove
from unichoir.fleet.transcribe import read_utterances, transcribe
from unichoir.fleet.worker import ModelSource
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.settings import Settings

Run = Callable[..., tuple[int, str, str]]
PATIENCE = 60


@dataclass(frozen=True)
class Witness(ModelSource):
    """A model on the CPU for workers that got a GPU; each records which GPU, and waits for the others."""

    folder: str = ""
    expected: int = 1

    def load(self) -> Recognizer:
        import ray

        folder = Path(self.folder)
        given = ray.get_runtime_context().get_accelerator_ids()["GPU"], os.environ.get("CUDA_VISIBLE_DEVICES")
        (folder / f"{os.getpid()}.tmp").write_text(json.dumps(given), encoding="utf-8")
        (folder / f"{os.getpid()}.tmp").rename(folder / f"{os.getpid()}.json")
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.glob("*.json"))) < self.expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return load_recognizer(self.name_or_dir, 1)


@pytest.fixture(scope="module")
def gpu_cluster(cluster: str) -> str:
    """A cluster whose workers cannot import the tests."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return cluster


def given(folder: Path) -> list[str]:
    """Return the GPU of each worker, which must also be the one visible to CUDA."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    assert all(ids == [visible] for ids, visible in found)
    return sorted(visible for _, visible in found)


def write_manifest(path: Path, recordings: list[Path]) -> Path:
    lines = [json.dumps({"key": each.stem, "wav": str(each), "txt": ""}) + "\n" for each in recordings]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(("share", "workers", "expected"), [(1.0, None, ["0", "1"]), (0.5, 3, ["0", "0", "1"])])
def test_workers_have_gpus(
    gpu_cluster: str, clips: list[Path], tmp_path: Path, share: float, workers: int | None, expected: list[str]
) -> None:
    folder = tmp_path / "witnesses"
    folder.mkdir()
    utterances = read_utterances([str(write_manifest(tmp_path / "set.jsonl", clips))])
    source = Witness(
        str(SMALL_MODEL), 1, device="cuda", gpu_share=share, folder=str(folder), expected=workers or len(expected)
    )
    report = transcribe(utterances, tmp_path / "output", source, DecodingOptions(), workers=workers)
    assert not report.failed
    found = given(folder)
    assert found == expected or (workers and found == ["0", "1", "1"])


def test_replicas_have_gpus(gpu_cluster: str, tmp_path: Path) -> None:
    source = Witness(str(SMALL_MODEL), 1, device="cuda", folder=str(tmp_path), expected=2)
    settings = Settings(model_name=SMALL_MODEL.name)
    application = make_application(source, settings, Scaling(min_replicas=2, max_replicas=2))
    try:
        deploy(application, {"host": "127.0.0.1", "port": free_port()})
        assert given(tmp_path) == ["0", "1"]
    finally:
        remove(PATIENCE)


@pytest.fixture
def no_cuda() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")


def test_machines_without_cuda(
    no_cuda: None, cluster: str, clips: list[Path], tiny_checkpoint: Path, tmp_path: Path, run_command: Run
) -> None:
    """The cluster says that there are GPUs, and the worker finds none: the command ends with what it has found."""
    manifest, output = write_manifest(tmp_path / "set.jsonl", clips), tmp_path / "output"
    command = ("transcribe", "--ray", "auto", manifest, "--output", output, "--device", "cuda")
    code, _, err = run_command(*command, "--model", tiny_checkpoint)
    assert code == 1
    assert "error: device cuda: the installed PyTorch " in err
    assert not (output / "results.jsonl").exists()


def test_a_cluster_without_gpus(clips: list[Path], tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "set.jsonl", clips)
    options = ["--ray", "local", "--output", str(tmp_path / "out"), "--device", "cuda"]
    command = ["transcribe", *WITH_SMALL_MODEL, str(manifest), *options]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "unichoir", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: device cuda: this cluster has no GPU (")


@pytest.mark.parametrize(
    ("machines", "processors", "share", "expected"),
    [
        ([(8, 0), (3, 0)], 1, 0.0, 11),
        ([(8, 0), (3, 0)], 2, 0.0, 5),
        ([(1, 0)], 4, 0.0, 1),
        ([(8, 2), (8, 0), (16, 8)], 1, 1.0, 10),
        ([(2, 2), (3, 8)], 1, 1.0, 5),
        ([(16, 2)], 1, 0.5, 4),
        ([(16, 2)], 1, 0.6, 2),
        ([(64, 1)], 1, 0.1, 10),
        ([(64, 1)], 1, 1 / 3, 3),
        ([(16, 2)], 8, 0.5, 2),
    ],
)
def test_places(
    monkeypatch: pytest.MonkeyPatch,
    machines: list[tuple[int, int]],
    processors: int,
    share: float,
    expected: int,
) -> None:
    resources = [{"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})} for cpus, gpus in machines]
    monkeypatch.setattr(fleet_cluster, "_machines", lambda: resources)
    assert fleet_cluster.places(processors, share) == expected


def test_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_cluster, "_machines", lambda: [{"CPU": 4.0}, {}])
    with pytest.raises(UnichoirError, match="this cluster has no GPU"):
        fleet_cluster.places(1, 1.0)
    monkeypatch.setattr(fleet_cluster, "_machines", lambda: [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 64.0}])
    with pytest.raises(UnichoirError, match="no machine of this cluster has a GPU and 8 processors"):
        fleet_cluster.places(8, 1.0)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_shares_of_a_gpu(share: float) -> None:
    with pytest.raises(ConfigError, match=r"GPUs of a worker: expected 0\.01 to 1, found"):
        ModelSource(str(SMALL_MODEL), gpu_share=share)


CUDA = ("--device", "cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "a.jsonl", "--gpus-per-worker", "1", *CUDA], "--gpus-per-worker: needs --ray"),
        (
            ["transcribe", "a", "--ray", "auto", "--output", "x", "--gpus-per-worker", "0"],
            "--gpus-per-worker: needs --device cuda",
        ),
        (["serve", "--gpus-per-replica", "1", *CUDA], "--gpus-per-replica: needs --ray"),
        (["serve", "--ray", "auto", "--gpus-per-replica", "1"], "--gpus-per-replica: needs --device cuda"),
        (["serve", "--device", "tpu"], "'tpu' is not one of 'cpu', 'cuda'"),
    ],
)
def test_usage_errors(run_command: Run, arguments: list[str], message: str) -> None:
    code, _, err = run_command(*arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_more_replicas_than_gpus(cluster: str, run_command: Run) -> None:
    command = ("serve", *WITH_SMALL_MODEL, "--ray", "auto", "--port", free_port(), *CUDA, "--min-replicas", 3)
    code, _, err = run_command(*command)
    assert code == 2
    assert "--min-replicas: this cluster has GPUs for 2" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("missing", ["ray", "ray.data"])
def test_without_ray(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    pytest.importorskip("ray.data")
    monkeypatch.setitem(sys.modules, missing, None)
    install = r"--ray needs an extra: pip install 'unichoir\[cluster\]' \(no ray"
    with pytest.raises(UnichoirError, match=install), fleet_cluster.connected("local"):
        raise AssertionError
