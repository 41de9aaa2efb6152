"""The Ray cluster that does the work: one that runs already, or one of this machine's processes."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from unichoir.errors import UnichoirError

AUTO, LOCAL = "auto", "local"
CONNECT_SECONDS = 10.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within it, this process is the driver of a cluster.

    address: `auto`, the cluster that runs on this machine or that RAY_ADDRESS names; `local`, one that is started here
    and ends with the block; or HOST:PORT of a cluster's head. A process that is a driver already stays the one it is.
    Raises UnichoirError where there is no such cluster, when the cluster fails, and without Ray.
    """
    try:
        # Set before Ray is imported, which is when it looks: nothing of a cluster of ours is reported to Ray's authors.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("ray", "pandas", "pyarrow"):
            raise
        install = "pip install 'unichoir[cluster]'"
        raise UnichoirError(f"--ray needs more than a plain install: {install} (no {error.name})") from None
    was_connected = ray.is_initialized()
    if not was_connected:
        _connect(address)
    try:
        yield
    except ray.exceptions.RayError as error:
        raise UnichoirError(f"the cluster has failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if not was_connected:
            ray.shutdown()


def processors() -> tuple[int, int]:
    """Of the largest machine of the cluster, and of all its machines together."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    of_machines = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return max(of_machines, default=1), sum(of_machines)


def _connect(address: str) -> None:
    import ray

    init = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if address == LOCAL:
        init(address=LOCAL, include_dashboard=False)
        return
    advice = f"start one with `ray start --head`, or use --ray {LOCAL}"
    try:
        _check_reachable(os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address)
        init(address=address)
    except (OSError, RuntimeError, ValueError) as error:
        where = "no Ray cluster runs here" if address == AUTO else f"{address}: no Ray cluster"
        raise UnichoirError(f"{where} ({str(error).splitlines()[0]}); {advice}") from None


def _check_reachable(address: str) -> None:
    """Raises OSError or ValueError at once, where Ray would try for ten minutes."""
    if address in (AUTO, LOCAL):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ValueError("expected HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
