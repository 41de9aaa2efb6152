"""The threads beside the engine: the order of tasks, and which never run at the same time."""

import threading
from collections.abc import Iterator

import pytest
from tests.serving.harness import PATIENCE

from unichoir.serving import background
from unichoir.serving.background import Background


class Tasks:
    """Tasks that wait for the test, and the list of those that have begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._may_end: set[str] = set()

    def __call__(self, name: str) -> background.Task:
        def task() -> None:
            with self._changed:
                self.begun.append(name)
                self._changed.notify_all()
                assert self._changed.wait_for(lambda: name in self._may_end, PATIENCE)

        return task

    def end(self, *names: str) -> None:
        with self._changed:
            self._may_end.update(names)
            self._changed.notify_all()

    def wait(self, *names: str) -> None:
        """Wait until exactly these tasks have begun, in any order."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(self.begun) == set(names), PATIENCE), self.begun


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def threads() -> Iterator[Background]:
    died: list[BaseException] = []
    made = Background(2, died.append)
    yield made
    made.stop()
    assert not died


def test_final_results_come_before_pieces(tasks: Tasks, threads: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PIECE_INTERVAL", 1e9)
    threads.add_piece(tasks("piece 1"))
    for number in range(1, 5):
        threads.add_final(tasks(f"final {number}"))
    threads.start()
    tasks.wait("final 1", "final 2")
    tasks.end("final 1")
    tasks.wait("final 1", "final 2", "final 3")
    tasks.end("final 2", "final 3")
    tasks.wait("final 1", "final 2", "final 3", "final 4", "piece 1")
    tasks.end("final 4", "piece 1")


def test_a_piece_does_not_wait_for_ever(tasks: Tasks, threads: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PIECE_INTERVAL", -1.0)
    for number in range(1, 4):
        threads.add_final(tasks(f"final {number}"))
        threads.add_piece(tasks(f"piece {number}"))
    threads.start()
    tasks.wait("piece 1", "final 1")
    tasks.end("piece 1", "final 1")
    tasks.wait("piece 1", "final 1", "piece 2", "final 2")
    tasks.end("piece 2", "final 2", "piece 3", "final 3")


def test_of_pieces_there_is_one_at_a_time(tasks: Tasks, threads: Background) -> None:
    threads.start()
    threads.add_piece(tasks("piece 1"))
    threads.add_piece(tasks("piece 2"))
    tasks.wait("piece 1")
    threads.add_final(tasks("final"))
    tasks.wait("piece 1", "final")
    tasks.end("final")
    tasks.end("piece 1")
    tasks.wait("piece 1", "final", "piece 2")
    tasks.end("piece 2")


def test_what_ends_a_thread_is_told() -> None:
    died, told = [], threading.Event()

    def on_death(error: BaseException) -> None:
        died.append(error)
        told.set()

    threads, raised = Background(2, on_death), SystemExit(3)

    def fail() -> None:
        raise raised

    threads.start()
    threads.add_final(fail)
    assert told.wait(PATIENCE)
    assert died == [raised]
    threads.stop()
