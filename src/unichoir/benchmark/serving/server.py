"""`unichoir serve` as a process of ours, from its start to its end."""

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
"""To load the model and listen."""
STOP_SECONDS = 60.0
DEATH_SECONDS = 1.0
"""From when a process that dies does not answer any more until it is dead."""
INTERVAL_SECONDS = 0.1


class Server:
    """A server that listens.

    arguments: of `unichoir serve`. Raises UnichoirError, with the server's last words, when it does not come up.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.errors: list[str] = []
        """What its log calls errors."""
        self.target = Target(url="")
        self._last: deque[str] = deque(maxlen=3)
        self._changed = threading.Event()
        # The key is for servers of others; whoever set it would otherwise close this one to us.
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
        """Of its process."""
        return self._process.pid

    def stop(self) -> int:
        """Ask it to end, as an operator would (SIGTERM), and wait. Its exit code, negative for a signal's number.

        Raises UnichoirError when it does not end.
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
        """Raises UnichoirError, with its last words, when it is no more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(DEATH_SECONDS)
            self._reader.join()
            raise UnichoirError(f"the server died with exit code {code}: {self._last_words()}") from None

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stderr:
            self._process.stderr.close()

    def _read_log(self) -> None:
        """All of it: a server whose log is not read stands still when the pipe is full."""
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
        raise UnichoirError(f"unichoir serve did not come up: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join(self._last) or "it said nothing"


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


@contextlib.contextmanager
def running(arguments: Sequence[str]) -> Iterator[Server]:
    """A `Server` that does not outlive the block. Where something fails because it has died, the error says that."""
    server = Server(arguments)
    try:
        yield server
    except UnichoirError:
        server.check()
        raise
    finally:
        server.kill()
