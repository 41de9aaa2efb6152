"""Child processes that hold a model and answer one request at a time, using no processor time while they wait.

Used by `run` and `prepare`, and by `serving.run` for its clients.
"""

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Collection, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from unichoir.errors import UnichoirError


class Child:
    """A separate process with a copy of `worker` that runs the worker's methods on request."""

    def __init__(self, worker: object, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, worker), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method in the process and return its result.

        Raises any UnichoirError of the method, and UnichoirError for other exceptions and if the process has died.
        """
        self.ask(method, *arguments)
        return self.answer()

    def ask(self, method: str, *arguments: object) -> None:
        """Start a call without waiting; `first_to_answer` waits for its end, `answer` returns its result."""
        with self._alive():
            self.connection.send((method, arguments))

    def answer(self) -> Any:
        """Wait for the call started by `ask`, and return its result."""
        with self._alive():
            result, error = self.connection.recv()
        if error is not None:
            raise error
        return result

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise UnichoirError(f"{self.name}: its process died (out of memory?)") from None

    def close(self) -> None:
        """Terminate the process, even during a call."""
        self.connection.close()
        self._process.terminate()
        self._process.join()


@contextlib.contextmanager
def child(worker: object, name: str) -> Iterator[Child]:
    """A `Child` that is terminated at the end of the block."""
    process = Child(worker, name)
    try:
        yield process
    finally:
        process.close()


def first_to_answer(children: Collection[Child]) -> Child:
    """Wait until one of the children has finished its call, and return it."""
    ready = wait([each.connection for each in children])
    return next(each for each in children if each.connection in ready)


def _serve(connection: Connection, worker: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children itself
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        answer: tuple[Any, UnichoirError | None]
        try:
            answer = getattr(worker, method)(*arguments), None
        except UnichoirError as error:
            answer = None, error
        except Exception as error:
            answer = None, UnichoirError(f"{type(error).__name__}: {error}")
        connection.send(answer)


def memory_peak() -> int:
    """Return the peak memory of this process so far, in bytes; 0 if unknown."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        import resource
    except ImportError:
        return 0  # Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
