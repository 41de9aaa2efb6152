"""Exceptions, exit codes, and codes of the server."""

import inspect

from docs.generate.tables import GENERATED, table

from unichoir import errors
from unichoir.serving.connection import CLOSE_CODES, OUTCOMES
from unichoir.serving.errors import CODES

INTRODUCTION = f"""# Errors

Every error is one line that names the input: `recording.wav: ...`.

{GENERATED}

## Python

Functions raise exceptions below `unichoir.UnichoirError`; the docstrings say which. The others are in
`unichoir.errors`.
"""
EXIT_CODES = """## Exit codes

| code | meaning |
| --- | --- |
| 0 | Success. |
| 1 | Something failed. Standard error says what, one line each. |
| 2 | The command line is wrong. Nothing was done. |
"""
HTTP = """## HTTP

An error response has a JSON body: `{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}`. `param` names
the wrong parameter, and `code` is for programs. Unknown paths and methods have no code.
"""
WEBSOCKET = """## WebSocket

The server closes a WebSocket with one of these codes and sends the reason first ([protocols](websocket.md)). A session
that cannot begin is refused with the HTTP errors above.
"""


def exceptions() -> list[list[str]]:
    """Return name, base and meaning of each exception, bases first."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    return [
        [f"`{each.__name__}`", f"`{each.__base__.__name__}`", " ".join((inspect.getdoc(each) or "").split())]
        for each in classes
        if each.__base__ is not None
    ]


def page() -> str:
    """Return the whole page."""
    codes = [
        [str(status), f"`{code}`", text] for code, (status, text) in sorted(CODES.items(), key=lambda each: each[1])
    ]
    outcomes = {name: text for name, text in OUTCOMES.items() if name != "client_closed"}
    closes = [[str(CLOSE_CODES.get(name, 1008)), f"`{name}`", text] for name, text in outcomes.items()]
    return "\n".join(
        [
            INTRODUCTION,
            *table(["exception", "base", "raised for"], exceptions()),
            EXIT_CODES,
            HTTP,
            *table(["status", "code", "meaning"], codes),
            WEBSOCKET,
            *table(["close code", "outcome", "meaning"], closes),
        ]
    )
