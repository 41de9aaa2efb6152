"""WeNet's protocol and the realtime protocol."""

from docs.generate.tables import GENERATED, TYPES, span, table, yaml

from unichoir.declaration import declared
from unichoir.serving.choices import HTTP, WENET, is_list
from unichoir.serving.realtime import CLIENT_EVENTS, SERVER_EVENTS
from unichoir.serving.realtime_config import INCLUDED, SAMPLE_RATES, TurnDetection
from unichoir.serving.wenet import MESSAGES, SIGNALS, START_KEYS

RATES = ", ".join(map(str, SAMPLE_RATES))
INTRODUCTION = f"""# WebSockets

`unichoir serve` speaks WeNet's protocol at `/` and the transcription events of OpenAI's realtime API at `/v1/realtime`.
[Errors](errors.md#websocket) lists the close codes.

{GENERATED}

## WeNet

Signals are JSON text messages. Audio is binary: int16, little-endian, mono, 16 kHz. Times are in milliseconds.
"""
START = """### Keys of the start signal
"""
ANSWERS = """### Messages of the server

Each message is a JSON object with `status`: `ok`, or `failed` with a `message`, after which the session ends.
"""
REALTIME = """## Realtime

Events are JSON text messages with a `type`. The query `?model=NAME` is optional. Invalid events return `error`, and the
session goes on.

### Events of the client
"""
SESSION = f"""### Keys of a session

`session.update` has a `session` with any of these keys. Keys that you leave out keep their values.

| key | value | meaning |
| --- | --- | --- |
| `type` | `transcription` | The only type. |
| `include` | list | Additional keys of events, see below. |
| `audio.input.format.type` | `audio/pcm` | int16, little-endian, mono. |
| `audio.input.format.rate` | {RATES} | In Hz, by default 24000; fixed after the first audio. |
| `audio.input.noise_reduction` | `null` | Not offered. |
| `audio.input.transcription.model` | text | A name of the server's model. |
| `audio.input.transcription.prompt` | empty | Not offered. |
"""
TURNS = """### Keys of `audio.input.turn_detection`

`null` turns it off: the client then ends utterances with `input_audio_buffer.commit`. `type` is `server_vad`.
"""
INCLUDE = """### Values of `include`
"""
SERVER = """### Events of the server
"""


def page() -> str:
    """Return the whole page."""
    start = [[f"`{key}`", each.option.help] for key, each in WENET.items()]
    options = [
        [
            f"`audio.input.transcription.{key}`",
            "list of texts" if is_list(each) else TYPES[each.kind],
            each.option.help,
        ]
        for key, each in HTTP.items()
    ]
    turns = [
        [
            f"`{each.name}`",
            span(each.option.low, each.option.high),
            each.option.unit,
            yaml(each.default),
            each.option.help,
        ]
        for each in declared(TurnDetection)
    ]
    return "\n".join(
        [
            INTRODUCTION,
            *table(["signal", "meaning"], coded(SIGNALS)),
            START,
            *table(["key", "meaning"], [*coded(START_KEYS), *start]),
            ANSWERS,
            *table(["`type`", "meaning"], coded(MESSAGES)),
            REALTIME,
            *table(["event", "meaning"], coded(CLIENT_EVENTS)),
            SESSION.rstrip("\n"),
            *table(["", "", ""], options)[2:],
            TURNS,
            *table(["key", "range", "unit", "default", "meaning"], turns),
            INCLUDE,
            *table(["value", "meaning"], coded(INCLUDED)),
            SERVER,
            *table(["event", "meaning"], coded(SERVER_EVENTS)),
        ]
    )


def coded(texts: dict[str, str]) -> list[list[str]]:
    """Return rows of a name and its meaning."""
    return [[f"`{name}`", text] for name, text in texts.items()]
