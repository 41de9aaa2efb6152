"""Threads for work that takes longer than a chunk: final results of live sessions, and pieces of recordings."""

import threading
import time
from collections import deque
from collections.abc import Callable

PIECE_INTERVAL = 1.0
"""Seconds after which a piece of a recording has priority over final results."""

Task = Callable[[], None]
"""Must not raise an exception, which would end the thread."""


class Background:
    """Runs tasks in the order of their arrival, final results before pieces of recordings.

    Pieces occupy at most half of the threads. You can add tasks from any thread.
    """

    def __init__(self, num_threads: int, on_death: Callable[[BaseException], None]) -> None:
        """num_threads: at least 2; on_death: called in a thread that an exception has ended."""
        self._on_death = on_death
        self._finals: deque[Task] = deque()
        self._pieces: deque[Task] = deque()
        self._last_piece = 0.0
        self._num_pieces, self._max_pieces = 0, num_threads // 2
        """Pieces that are running, and the most that may."""
        self._stopping = False
        self._wake = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"unichoir-background-{number}", daemon=True)
            for number in range(num_threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads after their current tasks, and wait for them. Queued tasks are dropped."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def add_final(self, task: Task) -> None:
        """Queue a final result, for which a speaker is waiting."""
        with self._wake:
            self._finals.append(task)
            self._wake.notify()

    def add_piece(self, task: Task) -> None:
        """Queue a piece of a recording."""
        with self._wake:
            self._pieces.append(task)
            self._wake.notify()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._on_death(error)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._finals or self._has_piece)
                if self._stopping:
                    return
                is_due = time.monotonic() - self._last_piece > PIECE_INTERVAL
                is_piece = self._has_piece and (is_due or not self._finals)
                task = (self._pieces if is_piece else self._finals).popleft()
                self._num_pieces += is_piece
            task()
            if is_piece:
                with self._wake:
                    self._num_pieces -= 1
                    self._last_piece = time.monotonic()
                    self._wake.notify()

    @property
    def _has_piece(self) -> bool:
        return bool(self._pieces) and self._num_pieces < self._max_pieces
