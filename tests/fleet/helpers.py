"""Helpers for the tests of the served fleet."""

import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import soundfile

from unichoir.fleet.serve import NAME


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def replicas() -> set[int]:
    """Return the process IDs of the replicas."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # zombies are of this kind, too
            if f"ServeReplica:{NAME}" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def read_clip(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]
