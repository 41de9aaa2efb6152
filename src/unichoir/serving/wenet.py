"""WeNet's WebSocket protocol (runtime/core/websocket of wenet-e2e/wenet), at `/`."""

import json
from dataclasses import replace
from typing import Any

import numpy as np

from unichoir.errors import DecodingError
from unichoir.serving.choices import WENET, InvalidChoice, choose
from unichoir.serving.connection import Connection, ProtocolError, parse_json
from unichoir.serving.hotwords import InvalidHotwords
from unichoir.serving.session import Event
from unichoir.transcript.results import Reading, StreamResult

SAMPLE_RATE = 16000
OK = {"status": "ok"}
SIGNALS = {
    "start": 'Begins the session: `{"signal": "start"}` with the keys below. Must come before audio.',
    "end": "Ends the input. The last result and `speech_end` follow.",
}
START_KEYS = {
    "continuous_decoding": "`true`: the session goes on after the first final result. Default: `false`.",
}
MESSAGES = {
    "server_ready": "The response to `start`.",
    "partial_result": 'The text so far: `nbest` is a JSON string, a list of `{"sentence"}`.',
    "final_result": 'The final text of an utterance: `nbest` as above, each with `word_pieces`, a list of `{"word", '
    '"start", "end"}`.',
    "speech_end": "The last message.",
}
KINDS = {int: "integer", bool: "boolean true or false"}
"""Types, as WeNet's messages call them."""


class WenetConnection(Connection):
    """One client: it sends start, audio and end, and gets partial and final results and speech_end."""

    protocol = "wenet"
    _is_started = _is_continuous = False
    _odd_byte = b""

    async def greet(self) -> None:
        """Send nothing: the client begins."""

    async def receive(self, message: str | bytes) -> None:
        """Handle a signal (text) or audio (binary: int16, little-endian, mono, 16 kHz)."""
        if isinstance(message, str):
            await self._receive_signal(message)
        elif not self._is_started:
            raise ProtocolError("Start signal is expected before binary data")
        else:
            # A client may split a sample between two messages.
            message = self._odd_byte + message
            even = len(message) - len(message) % 2
            self._odd_byte = message[even:]
            await self.session.send(np.frombuffer(message[:even], "<i2"), SAMPLE_RATE)

    async def handle(self, event: Event) -> bool:
        """Send results as they come. Unless continuous, the session ends with the first final result."""
        if isinstance(event, StreamResult):
            if event.is_final:
                await self._send_result("final_result", [_final(reading) for reading in event.nbest])
                if not self._is_continuous:
                    event = "ended"
            elif event.text:
                await self._send_result("partial_result", [{"sentence": reading.text} for reading in event.nbest])
        if event == "ended":
            await self.send({**OK, "type": "speech_end"})
        return event != "ended"

    async def send_error(self, message: str, code: str) -> None:
        """Send an error as WeNet does."""
        await self.send({"status": "failed", "message": message})

    async def _receive_signal(self, text: str) -> None:
        try:
            header = parse_json(text)
        except ValueError:
            raise ProtocolError("Wrong protocol") from None
        if not isinstance(header, dict):
            raise ProtocolError("Wrong protocol")
        if "signal" not in header:
            raise ProtocolError("Wrong message header")
        if header["signal"] == "start" and not self._is_started:
            await self._start(header)
            await self.send({**OK, "type": "server_ready"})
        elif header["signal"] == "end" and self._is_started:
            self.session.finish()
        else:
            raise ProtocolError("Unexpected signal type")

    async def _start(self, header: dict[str, Any]) -> None:
        kinds = {"continuous_decoding": bool, **{key: option.kind for key, option in WENET.items()}}
        for key, kind in kinds.items():
            if kind in KINDS and key in header and type(header[key]) is not kind:
                raise ProtocolError(f"{KINDS[kind]} is expected for {key} option")
        given = {key: header[key] for key in WENET if key in header}
        try:
            chosen = choose(given, WENET, self.engine.settings)
            options = replace(self.session.options, **{"num_best": 1, **chosen})
            self.session.scorer = await self.engine.hotwords.prepare(options)
        except InvalidChoice as error:
            raise ProtocolError(f"{error.name}: {error}") from None
        except InvalidHotwords as error:
            raise ProtocolError(f"hotwords: {error}") from None
        except DecodingError as error:
            raise ProtocolError(f"nbest: {error}") from None
        self.session.configure(options)
        self._is_started, self._is_continuous = True, header.get("continuous_decoding", False)

    async def _send_result(self, kind: str, nbest: list[dict[str, Any]]) -> None:
        await self.send({**OK, "type": kind, "nbest": json.dumps(nbest, ensure_ascii=False)})


def _final(reading: Reading) -> dict[str, Any]:
    pieces = [{"word": token.text, "start": token.start_ms, "end": token.end_ms} for token in reading.tokens]
    return {"sentence": reading.text, "word_pieces": pieces}
