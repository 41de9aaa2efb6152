"""Processes that answer, fail and die."""

import os

import pytest

from unichoir.benchmark.processes import Child, child, first_to_answer, memory_peak
from unichoir.errors import ConfigError, UnichoirError


class Answering:
    """A worker that remembers what it has received."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def fail(self, message: str) -> None:
        raise ConfigError(message)

    def stumble(self) -> None:
        raise IndexError("too far")

    def die(self) -> None:
        os._exit(1)


def test_answers_and_errors() -> None:
    with child(Answering(), "the worker") as process:
        assert process.call("add", 2) == 2
        with pytest.raises(ConfigError, match="that is wrong"):
            process.call("fail", "that is wrong")
        with pytest.raises(UnichoirError, match="IndexError: too far"):
            process.call("stumble")
        assert process.call("add", 3) == 5
        process.ask("add", 1)
        assert first_to_answer([process]) is process
        assert process.answer() == 6
        with pytest.raises(UnichoirError, match="the worker: its process died"):
            process.call("die")


def test_a_process_is_ended_whatever_it_does() -> None:
    process = Child(Answering(), "the worker")
    process.ask("add", 1)
    process.close()
    with pytest.raises(UnichoirError, match="died"):
        process.call("add", 1)


def test_memory_peak_grows() -> None:
    before = memory_peak()
    values = bytearray(50_000_000)
    values[::4096] = bytes(len(values[::4096]))
    assert memory_peak() >= before > 1_000_000
