"""One Ray cluster of several processes on this machine for all tests, and recordings for it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS

# Both are read when Ray is imported: nothing is reported, and the autoscaler counts sessions every second.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
os.environ["RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"

RATE = 16000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore Ray's warnings: it leaves sockets and files to the garbage collector. Ray takes seconds to start."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for kind in ("ResourceWarning", "FutureWarning", "DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            if "cluster" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a cluster whose driver is this process; other processes can also be drivers.

    It claims to have GPUs, which only affects workers that request one.
    """
    ray = pytest.importorskip("ray")
    context = ray.init(
        address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Twelve copies and parts of recordings, of different lengths."""
    folder = tmp_path / "audio"
    folder.mkdir()
    paths = []
    for number, source in enumerate(CLIPS):
        paths.append(folder / f"clip-{number}.flac")
        shutil.copy(source, paths[-1])
    samples, _ = soundfile.read(CLIPS[0], dtype="int16")
    for number in range(7):
        paths.append(folder / f"piece-{number}.wav")
        soundfile.write(paths[-1], np.roll(samples, 1000 * number)[: RATE * (number + 2) // 2], RATE)
    return paths
