"""OpenAI's realtime transcription events over a WebSocket, at `/v1/realtime`."""

import base64
import binascii
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import numpy as np

from unichoir.serving.connection import Connection, ProtocolError, parse_json
from unichoir.serving.formats import logprob_dict, usage_dict
from unichoir.serving.hotwords import InvalidHotwords
from unichoir.serving.realtime_config import KEYWORDS, LOGPROBS, PARTIAL, WORDS, InvalidUpdate, RealtimeConfig
from unichoir.serving.session import Event
from unichoir.text.normalize import canonical_text, split_words
from unichoir.transcript.formats import word_dict
from unichoir.transcript.results import StreamResult

TRANSCRIPTION = "conversation.item.input_audio_transcription"
CLIENT_EVENTS = {
    "session.update": "Changes the `session`. Answered by `session.updated`.",
    "input_audio_buffer.append": "Audio: `audio` is base64 of the session's format.",
    "input_audio_buffer.commit": "Ends the utterance here.",
    "input_audio_buffer.clear": "Drops the audio since the last utterance.",
}
SERVER_EVENTS = {
    "session.created": "The first event, with the `session`.",
    "session.updated": "The `session` after a change.",
    "input_audio_buffer.speech_started": "An utterance starts at `audio_start_ms`. With turn detection only.",
    "input_audio_buffer.speech_stopped": "The utterance has ended at `audio_end_ms`. With turn detection only.",
    "input_audio_buffer.committed": "The utterance is complete: `item_id`, `previous_item_id`.",
    "input_audio_buffer.cleared": "The response to `input_audio_buffer.clear`.",
    "conversation.item.added": "The `item` of the utterance.",
    "conversation.item.done": "The same `item`, complete.",
    f"{TRANSCRIPTION}.delta": "Text to append to the transcript of `item_id`. Shown text never changes.",
    f"{TRANSCRIPTION}.partial": "The `transcript` so far, which may change. Only if included.",
    f"{TRANSCRIPTION}.completed": "The final `transcript` with `usage` and, if included, `words` and `logprobs`.",
    "error": "An `error` with `type`, `code`, `message`, `param` and the `event_id` of the client's event.",
}
Handler: TypeAlias = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]


class InvalidEvent(Exception):
    """An event that is refused. The session goes on."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class Item:
    """An utterance in progress, or what a client commits as one."""

    def __init__(self) -> None:
        self.id = f"item_{uuid.uuid4().hex[:20]}"
        self.finals: list[StreamResult] = []
        self.is_announced = False
        self._shown = ""
        self._before: list[str] = []

    @property
    def transcript(self) -> str:
        """The text of the final results."""
        return canonical_text(" ".join(result.text for result in self.finals))

    def text_with(self, partial: StreamResult) -> str:
        """Return the transcript so far, including text that may still change."""
        return canonical_text(f"{self.transcript} {partial.text}")

    def stable_delta(self, text: str) -> str:
        """Return new text that will not change: words that two consecutive results have in common.

        The last word is left out, because it may be the beginning of a longer word.
        """
        words, before = split_words(text), self._before
        self._before = words
        same = 0
        while same < min(len(words), len(before)) - 1 and words[same] == before[same]:
            same += 1
        return self._delta(canonical_text(" ".join(words[:same])))

    def last_delta(self) -> str:
        """Return the rest of the transcript, if what was shown is its beginning."""
        return self._delta(self.transcript)

    def _delta(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        delta, self._shown = text[len(self._shown) :], text
        return delta


class RealtimeConnection(Connection):
    """One client: its configuration and its current item."""

    protocol = "realtime"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._config = RealtimeConfig.of(self.engine.settings)
        self._session_id = f"sess_{uuid.uuid4().hex[:20]}"
        self._has_audio = self._has_uncommitted = False
        self._num_commits = 0
        self._item = Item()
        self._last_id: str | None = None
        self._handlers: dict[str, Handler] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    async def greet(self) -> None:
        """Send `session.created`. Raises ProtocolError for another model than the server's."""
        model = self.websocket.query_params.get("model")
        names = self.engine.settings.model_names
        if model is not None and model not in names:
            raise ProtocolError(f"there is no model '{model[:100]}'; this server has {names[0]}")
        if self.websocket.query_params.get("intent", "transcription") != "transcription":
            raise ProtocolError("only intent=transcription is offered here")
        self.session.configure(self._config.streaming_options(self.engine.settings.streaming))
        await self._send("session.created", session=self._session())

    async def receive(self, message: str | bytes) -> None:
        """Handle a client's event. Invalid events return `error`, and the session goes on."""
        event: Any = None
        try:
            if isinstance(message, bytes):
                raise InvalidEvent("invalid_json", "events are JSON in text messages, this one is binary")
            try:
                event = parse_json(message)
            except ValueError:
                raise InvalidEvent("invalid_json", "the event is not JSON") from None
            kind = event.get("type") if isinstance(event, dict) else None
            handler = self._handlers.get(kind) if isinstance(kind, str) else None
            if handler is None:
                offered = ", ".join(self._handlers)
                raise InvalidEvent("unknown_event", f"expected an event of type {offered}", "type")
            await handler(event)
        except InvalidEvent as error:
            event_id = event.get("event_id") if isinstance(event, dict) else None
            await self._error(str(error), error.code, error.param, event_id if isinstance(event_id, str) else None)

    async def handle(self, event: Event) -> bool:
        """Send results as they come."""
        if isinstance(event, StreamResult):
            if event.is_final:
                await self._final(event)
            elif event.text:
                await self._partial(event)
        elif event == "cleared":
            self._item = Item()
            await self._send("input_audio_buffer.cleared")
        elif event == "committed":
            self._num_commits -= 1
            await self._complete()
        elif event == "ended" and self._item.transcript:
            await self._complete()
        return event != "ended"

    async def send_error(self, message: str, code: str) -> None:
        """Send `error`, the last event of a session."""
        kind = "invalid_request_error" if code != "server_error" else "server_error"
        await self._error(message, code, None, None, kind)

    # Events of clients.

    async def _update(self, event: dict[str, Any]) -> None:
        try:
            config = self._config.updated(event.get("session"), self.engine.settings, self._has_audio)
        except InvalidUpdate as error:
            raise InvalidEvent("invalid_value", str(error), error.param) from None
        options = config.streaming_options(self.engine.settings.streaming)
        try:
            scorer = await self.engine.hotwords.prepare(options)
        except InvalidHotwords as error:
            raise InvalidEvent("invalid_value", f"{KEYWORDS}: {error}", KEYWORDS) from None
        if options != self.session.options:
            if self._has_uncommitted:  # options belong to a stream, so another one begins
                self._end_item()
            self.session.configure(options)
            self.session.scorer = scorer
        self._config = config
        await self._send("session.updated", session=self._session())

    async def _append(self, event: dict[str, Any]) -> None:
        audio = event.get("audio")
        if not isinstance(audio, str):
            raise InvalidEvent("invalid_value", "audio: base64 is expected", "audio")
        try:
            content = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidEvent("invalid_value", "audio: this is not base64", "audio") from None
        if len(content) % 2:
            raise InvalidEvent("invalid_value", "audio: half of an int16 sample is missing", "audio")
        if content:
            self._has_audio = self._has_uncommitted = True
            await self.session.send(np.frombuffer(content, "<i2"), self._config.sample_rate)

    async def _commit(self, event: dict[str, Any]) -> None:
        if not self._has_uncommitted:
            raise InvalidEvent("input_audio_buffer_commit_empty", "no audio has been appended since the last commit")
        self._end_item()

    async def _clear(self, event: dict[str, Any]) -> None:
        self._has_uncommitted = False
        self.session.clear()

    def _end_item(self) -> None:
        self._has_uncommitted = False
        self._num_commits += 1
        self.session.commit()

    # Events of the server.

    async def _partial(self, result: StreamResult) -> None:
        await self._announce(result)
        text = self._item.text_with(result)
        if PARTIAL in self._config.include:
            await self._send_of_item(f"{TRANSCRIPTION}.partial", transcript=text)
        await self._send_delta(self._item.stable_delta(text))

    async def _final(self, result: StreamResult) -> None:
        """Add a final result to the item that the client commits, or make it an item of its own if it has words."""
        if result.text:
            await self._announce(result)
        self._item.finals.append(result)
        if self._config.turn_detection and not self._num_commits and not self.session.is_finished:
            if result.text:
                await self._complete()
            else:
                self._item = Item()

    async def _announce(self, result: StreamResult) -> None:
        detection = self._config.turn_detection
        if detection is None or self._item.is_announced:
            return
        self._item.is_announced = True
        # Without times of words, the first word is in the last chunk.
        chunk_ms = round(self.engine.recognizer.reader.clock.step_ms * self.session.options.chunk_size)
        first_ms = result.words[0].start_ms if result.words else result.end_ms - chunk_ms
        start_ms = max(result.start_ms, first_ms - detection.prefix_padding_ms)
        await self._send("input_audio_buffer.speech_started", audio_start_ms=start_ms, item_id=self._item.id)

    async def _complete(self) -> None:
        """Send the events of a complete item, and begin the next one."""
        item, previous = self._item, self._last_id
        self._item, self._last_id = Item(), item.id
        finals = item.finals
        end_ms = finals[-1].end_ms if finals else 0
        if item.is_announced:
            await self._send("input_audio_buffer.speech_stopped", audio_end_ms=end_ms, item_id=item.id)
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        content = [{"type": "input_audio", "transcript": None}]
        shown = {"id": item.id, "type": "message", "role": "user", "status": "completed", "content": content}
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._send(kind, item={**shown, "object": "realtime.item"}, previous_item_id=previous)
        await self._send_delta(item.last_delta(), item)
        seconds = (end_ms - finals[0].start_ms) / 1000 if finals else 0.0
        extras: dict[str, Any] = {}
        if WORDS in self._config.include:
            extras["words"] = [word_dict(word) for result in finals for word in result.words]
        if LOGPROBS in self._config.include:
            extras["logprobs"] = [logprob_dict(token) for result in finals for token in result.tokens]
        usage = usage_dict(seconds)
        await self._send_of_item(f"{TRANSCRIPTION}.completed", item, transcript=item.transcript, usage=usage, **extras)

    async def _send_delta(self, delta: str, item: Item | None = None) -> None:
        if delta:
            await self._send_of_item(f"{TRANSCRIPTION}.delta", item, delta=delta)

    async def _send_of_item(self, kind: str, item: Item | None = None, **fields: Any) -> None:
        await self._send(kind, item_id=(item or self._item).id, content_index=0, **fields)

    async def _error(
        self, message: str, code: str, param: str | None, event_id: str | None, kind: str = "invalid_request_error"
    ) -> None:
        error = {"type": kind, "code": code, "message": message, "param": param, "event_id": event_id}
        await self._send("error", error=error)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.send({"type": kind, "event_id": f"event_{uuid.uuid4().hex[:20]}", **fields})

    def _session(self) -> dict[str, Any]:
        return {**self._config.to_dict(), "id": self._session_id, "object": "realtime.transcription_session"}
