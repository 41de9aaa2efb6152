"""The Ray cluster that does the work: a running one, or one started on this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from unichoir.api import cluster_extras
from unichoir.errors import UnichoirError

AUTO, LOCAL = "auto", "local"
CONNECT_SECONDS = 10.0


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to a cluster, as its driver, for the duration of the block.

    address: `auto` for the cluster that runs on this machine or that RAY_ADDRESS names; `local` for one that starts now
    and ends with the block; or HOST:PORT of a cluster's head node. A process that is already a driver stays connected.
    Raises UnichoirError if there is no such cluster, if the cluster fails, or if Ray is not installed.
    """
    # Ray reads this when it is imported; it disables reports to Ray's authors about the cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with cluster_extras("--ray"):
        import ray
        import ray.data
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
    """Return the number of processors of the cluster's largest machine, and of all its machines together."""
    of_machines = [int(resources.get("CPU", 0)) for resources in _machines()]
    return max(of_machines, default=1), sum(of_machines)


def places(processors_each: int, gpus_each: float) -> int:
    """Return how many workers the cluster has room for, 1 or more.

    Each worker needs `processors_each` processors of one machine and `gpus_each` of one GPU. Raises UnichoirError if
    workers need GPUs and no machine has room for one, for which Ray would wait forever.
    """
    if not gpus_each:
        return max(processors()[1] // processors_each, 1)
    in_gpu = int(1 / gpus_each + 1e-6)  # a worker uses one GPU only; 1 / 0.1 may be less than 10
    machines = [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in _machines()]
    if not any(gpus for _, gpus in machines):
        raise UnichoirError("device cuda: this cluster has no GPU (`ray start --num-gpus N` if Ray doesn't detect it)")
    found = sum(min(cpus // processors_each, gpus * in_gpu) for cpus, gpus in machines)
    if not found:
        raise UnichoirError(f"device cuda: no machine of this cluster has a GPU and {processors_each} processors")
    return found


def _machines() -> list[dict[str, float]]:
    """Return the resources of each machine in the cluster."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


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
    """Raise OSError or ValueError immediately if the address is unreachable; Ray would try for ten minutes."""
    if address in (AUTO, LOCAL):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ValueError("expected HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
