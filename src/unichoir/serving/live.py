"""A live session as the engine's thread sees it: a stream of the recogniser, one after the other."""

from collections import deque

from unichoir.decoding.options import StreamingOptions
from unichoir.decoding.recognizer import Recognizer
from unichoir.decoding.stream import Stream
from unichoir.serving.session import Audio, Event, Failed, Item, Session, Signal


class LiveStream:
    """What has arrived in a session and what has been recognised of it."""

    def __init__(self, recognizer: Recognizer, session: Session) -> None:
        self.session = session
        self.events: list[Event] = []
        """Not delivered yet."""
        self.is_over = False
        """Nothing will follow."""
        self._recognizer = recognizer
        self._waiting: deque[Item] = deque()
        self._options = session.options
        self._closing: Signal | None = None
        self._start_ms = 0.0
        self.stream = self._new_stream()

    @property
    def is_ready(self) -> bool:
        """Whether the stream has a chunk to encode."""
        return not self.is_over and self._recognizer.is_ready(self.stream)

    @property
    def heard_ms(self) -> float:
        """Up to where the session's audio has been recognised."""
        return self.stream.heard_ms

    def take(self) -> None:
        """Take what has arrived. What comes after a commit waits until the utterance is done."""
        while self.session.inbox:
            item = self.session.inbox.popleft()
            self.is_over = self.is_over or item == "abandon"
            self._waiting.append(item)
        self._go_on()

    def collect(self) -> None:
        """Take the results of a step: final ones of utterances that have ended, else the partial one."""
        if not self._take_finals():
            self.events.append(self._recognizer.get_result(self.stream))
        self._go_on()

    def fail(self, message: str) -> None:
        """The session cannot go on."""
        self.events.append(Failed(message))
        self.is_over = True

    def _go_on(self) -> None:
        while not self.is_over:
            if self._closing and not self._is_stream_done():
                return
            if self.is_over or not self._waiting:
                return
            item = self._waiting.popleft()
            if isinstance(item, Audio):
                self.stream.accept_waveform(item.samples, item.sample_rate)
            elif isinstance(item, StreamingOptions):
                self._options = item
                if not self.stream.accepted_ms:
                    self.stream = self._new_stream()
            elif item == "clear":
                self._start_ms += self.stream.accepted_ms
                self.stream = self._new_stream()
                self.events.append("cleared")
            else:
                self.stream.input_finished()
                self._closing = item

    def _take_finals(self) -> bool:
        """The results of utterances that have ended; whether there was one."""
        found = False
        while self._recognizer.is_endpoint(self.stream):
            self.events.append(self._recognizer.get_result(self.stream))
            self._recognizer.reset(self.stream)
            found = True
        return found

    def _is_stream_done(self) -> bool:
        """Whether a stream whose input has ended is recognised to its end; then another takes its place."""
        self._take_finals()
        if not self.stream.is_closed:
            return False
        self._start_ms += self.stream.accepted_ms
        self.is_over = self._closing == "finish"
        self.events.append("ended" if self.is_over else "committed")
        self._closing = None
        self.stream = self._new_stream()
        return True

    def _new_stream(self) -> Stream:
        return self._recognizer.create_stream(self._options, start_ms=round(self._start_ms))
