"""A session's mailbox and its backpressure, with the test in the role of the engine."""

import asyncio

import numpy as np
import pytest

from unichoir.serving.session import MAX_EVENTS, Failed, Session, SessionExpired
from unichoir.serving.settings import Settings
from unichoir.transcript.results import Reading, StreamResult

SECOND = np.zeros(16000, np.int16)


class Engine:
    """Records what a session sends to its engine."""

    def __init__(self, **settings: object) -> None:
        self.notified = 0
        self.forgotten: list[Session] = []
        self.session = Session(
            Settings(model_name="m", **settings),  # type: ignore[arg-type]
            self._notify,
            self.forgotten.append,
        )

    def _notify(self, session: Session) -> None:
        assert session.inbox
        self.notified += 1


def result(number: int, text: str, is_final: bool) -> StreamResult:
    reading = Reading(text=text, tokens=(), words=(), score=0.0)
    return StreamResult(utterance=number, is_final=is_final, start_ms=0, end_ms=1000, nbest=(reading,))


async def taken(session: Session, count: int) -> list[object]:
    events = session.events()
    found = [await anext(events) for _ in range(count)]
    await events.aclose()
    return found


def test_only_the_newest_partial_result_waits_and_every_final_one() -> None:
    async def talk() -> None:
        session = Engine().session
        first, second, third = result(0, "A", False), result(0, "A B", False), result(0, "A B C", True)
        session.deliver([first], 100)
        session.deliver([second], 200)
        assert await taken(session, 1) == [second]
        session.deliver([first, third, result(1, "", True)], 300)
        session.deliver([result(2, "D", False), "ended"], 400)
        assert await taken(session, 3) == [third, result(1, "", True), "ended"]

    asyncio.run(talk())


def test_a_client_that_reads_nothing_for_long_is_given_up() -> None:
    async def talk() -> None:
        session = Engine().session
        for number in range(MAX_EVENTS):
            session.deliver([result(number, "A", True)], number)
        session.deliver([result(MAX_EVENTS, "A", True)], 0)
        (event,) = await taken(session, 1)
        assert isinstance(event, Failed)
        assert event.code == "too_slow"

    asyncio.run(talk())


def test_sending_waits_while_too_much_is_not_recognised_yet() -> None:
    async def talk() -> None:
        engine = Engine(max_backlog_seconds=2.0)
        session = engine.session
        await session.send(SECOND, 16000)
        await session.send(SECOND, 16000)
        waiting = asyncio.create_task(session.send(SECOND, 16000))
        await asyncio.sleep(0)
        assert (len(session.inbox), session.backlog_ms) == (3, 3000)
        session.deliver([], 900)
        await asyncio.sleep(0)
        assert not waiting.done()
        session.deliver([], 1000)
        await waiting
        assert session.backlog_ms == 2000
        assert engine.notified == 3

    asyncio.run(talk())


def test_closing_lets_go_of_whoever_waits_and_says_so_once() -> None:
    async def talk() -> None:
        engine = Engine(max_backlog_seconds=2.0)
        session = engine.session
        waiting = asyncio.create_task(session.send(np.concatenate([SECOND] * 3), 16000))
        await asyncio.sleep(0)
        session.close()
        session.close()
        await waiting
        await session.send(SECOND, 16000)  # of no interest any more
        session.finish()
        assert engine.forgotten == [session]
        assert list(session.inbox)[2:] == ["abandon"]  # behind two blocks of audio

    asyncio.run(talk())


def test_more_audio_than_a_session_may_have() -> None:
    async def talk() -> None:
        session = Engine(max_session_seconds=1.5).session
        await session.send(SECOND, 16000)
        with pytest.raises(SessionExpired, match=r"a session may have 1\.5 s of audio"):
            await session.send(SECOND, 16000)

    asyncio.run(talk())


def test_the_input_ends_once() -> None:
    async def talk() -> None:
        session = Engine().session
        session.finish()
        session.finish()
        await session.send(SECOND, 16000)
        assert list(session.inbox) == ["finish"]
        assert session.is_finished

    asyncio.run(talk())
