"""Run `unichoir serve` as a child process, from start to end; called by `run`."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.error import HTTPError

from unichoir.benchmark.serving.client import Target
from unichoir.errors import UnichoirError

START_SECONDS = 300.0
"""Timeout for loading the model and listening."""
STOP_SECONDS = 60.0
"""Timeout for ending after SIGTERM."""
DEATH_SECONDS = 1.0
"""A dying process may stop responding this long before it has ended."""
INTERVAL_SECONDS = 0.1


class Server:
    """A server that accepts connections.

    arguments: the options of `unichoir serve`. Raises UnichoirError, with the server's last output, if it does not
    start.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.errors: list[str] = []
        """The log lines of level error and above."""
        self.target = Target(url="")
        self._last: deque[str] = deque(maxlen=3)
        self._changed = threading.Event()
        # The variable holds the key of another server; with it, this one would require the key.
        environment = {name: value for name, value in os.environ.items() if name != "UNICHOIR_API_KEY"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unichoir", "serve", "--host", "127.0.0.1", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    def stop(self) -> int:
        """Send SIGTERM, as an operator would, and wait; return the exit code, or the negative number of a signal.

        Raises UnichoirError if the server does not end.
        """
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise UnichoirError(f"the server did not end within {STOP_SECONDS:g} s") from None
        finally:
            self.kill()
        return code

    def check(self) -> None:
        """Raise UnichoirError, with the last output, if the server has died."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(DEATH_SECONDS)
            self._reader.join()
            raise UnichoirError(f"the server died with exit code {code}: {self._last_words()}") from None

    def kill(self) -> None:
        """Kill the server if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stderr:
            self._process.stderr.close()

    def _read_log(self) -> None:
        """Read the log until its end: a server whose pipe is full would block."""
        for line in self._process.stderr or ():
            self._last.append(line.strip())
            entry = _parse(line)
            if entry.get("event") == "listening":
                self.target = Target(url=str(entry.get("url")).replace("http", "ws", 1))
                self._changed.set()
            elif entry.get("level") in ("error", "critical"):
                self.errors.append(line.strip())
        self._changed.set()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        self._changed.wait(START_SECONDS)
        while self.target.url and self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(HTTPError, UnichoirError):
                self.target.fetch("/readyz", START_SECONDS)
                return
            time.sleep(INTERVAL_SECONDS)
        raise UnichoirError(f"unichoir serve did not start: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join(self._last) or "no output"


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[Server]:
    """Run a `Server` in the block. If an error in the block is caused by the server's death, that is raised instead."""
    server = Server(arguments)
    try:
        yield server
    except UnichoirError:
        server.check()
        raise
    finally:
        server.kill()
