"""A live session in the engine's thread: streams of the recogniser, one after another."""

from collections import deque

from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.stream import Stream
from unichoir.serving.session import Audio, Event, Failed, Item, Session, Signal


class LiveStream:
    """The stream of a session: what has arrived, and what has been recognised."""

    def __init__(self, recognizer: Recognizer, session: Session) -> None:
        self.session = session
        self.events: list[Event] = []
        """Events that are not delivered yet."""
        self.is_over = False
        """Whether the session has ended."""
        self.awaits_final = False
        """Whether the utterance has ended and its final result must be requested. The stream pauses until the result is
        taken."""
        self.is_ready = False
        """Whether the stream had a chunk to encode when `look` was called."""
        self._recognizer = recognizer
        self._waiting: deque[Item] = deque()
        self._options = session.options
        self._closing: Signal | None = None
        self._is_waiting = False
        """Whether the stream waits for the final result of an utterance."""
        self._start_ms = 0.0
        self.stream = self._new_stream()

    @property
    def heard_ms(self) -> float:
        """The end of the recognised audio, in ms of the session."""
        return self.stream.heard_ms

    def look(self) -> None:
        """Check whether the stream has a chunk to encode."""
        self.is_ready = not self.is_over and self._recognizer.streams.is_ready(self.stream)

    def take(self) -> None:
        """Take items from the inbox. They wait while the final result of an utterance is pending."""
        while self.session.inbox:
            item = self.session.inbox.popleft()
            self.is_over = self.is_over or item == "abandon"
            self._waiting.append(item)
        self._go_on()

    def collect(self) -> None:
        """Take the partial result of a step, unless the utterance has ended: its final result must be found first."""
        if not self._has_ended:
            self.events.append(self._recognizer.streams.get_result(self.stream))
        self._go_on()

    def take_final(self) -> None:
        """Take the final result of the utterance, and go on with the next utterance."""
        self.events.append(self._recognizer.streams.get_result(self.stream))
        self._recognizer.streams.reset(self.stream)
        self._is_waiting = False
        self._go_on()

    def fail(self, message: str) -> None:
        """End the session with an error."""
        self.events.append(Failed(message))
        self.is_over = True

    @property
    def _has_ended(self) -> bool:
        return self._recognizer.streams.is_endpoint(self.stream)

    def _go_on(self) -> None:
        while not self.is_over:
            if self._has_ended:
                if not self._is_waiting:
                    self.awaits_final = self._is_waiting = True
                return
            if self._closing:
                if not self.stream.is_closed:
                    return
                self._end_stream(self._closing)
            elif self._waiting:
                self._handle(self._waiting.popleft())
            else:
                return

    def _handle(self, item: Item) -> None:
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

    def _end_stream(self, signal: Signal) -> None:
        """Replace a stream that has been recognised to its end by a new one."""
        self._start_ms += self.stream.accepted_ms
        self.is_over = signal == "finish"
        self.events.append("ended" if self.is_over else "committed")
        self._closing = None
        self.stream = self._new_stream()

    def _new_stream(self) -> Stream:
        return self._recognizer.streams.create_stream(self._options, start_ms=round(self._start_ms))
