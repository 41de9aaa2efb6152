"""Options of recognition and of the server, as Python, the command line and clients have them."""

import dataclasses
import inspect

from docs.generate.tables import GENERATED, TYPES, kind, span, table, yaml

from unichoir.cli._shared.options import flag
from unichoir.declaration import Declared, declared
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
from unichoir.recognition.vad_options import VadOptions
from unichoir.search.options import OfflineSearchOptions, SearchOptions
from unichoir.serving.settings import Settings

INTRODUCTION = f"""# Options

This page lists the options of recognition: [`DecodingOptions`](#decodingoptions) for recordings and
[`StreamingOptions`](#streamingoptions) for live audio share the [options of the search](#both). [`Settings`](#settings)
are the limits of the server.

Most options have a name on the command line, too. Clients of the server may choose some of them: the column "clients"
has the name in forms and realtime sessions, then the name in WeNet's protocol. Ranges include both ends. Values out of
range are errors that name the option.

{GENERATED}
"""
CLASSES = (
    (SearchOptions, "Both"),
    (OfflineSearchOptions, "Attention mode, for recordings"),
    (DecodingOptions, "DecodingOptions"),
    (VadOptions, "VadOptions"),
    (StreamingOptions, "StreamingOptions"),
    (EndpointRules, "EndpointRules"),
    (Settings, "Settings"),
)
SPECIAL_FLAGS = {"hotwords": "`--hotwords FILE`, `--hotwords-boost X`", "written": "`--itn`, `--punctuation`"}


def row(option: Declared) -> list[str]:
    """Return the cells of an option."""
    declaration = option.option
    has_own_page = dataclasses.is_dataclass(option.kind) and option.nested
    name = f"[`{option.name}`](#{option.kind.__name__.lower()})" if has_own_page else f"`{option.name}`"
    default = "" if has_own_page else yaml(option.default).replace("`null`", "`None`").replace("`[]`", "none")
    default = {"`true`": "`True`", "`false`": "`False`"}.get(default, default)
    command = SPECIAL_FLAGS.get(option.name, "" if declaration.flag is None or has_own_page else f"`{flag(option)}`")
    clients = [f"`{each}`" for each in (declaration.http, declaration.wenet) if each]
    words = kind(option.kind) if option.choices or option.kind in TYPES else f"`{getattr(option.kind, '__name__', '')}`"
    if option.name == "hotwords":
        words = "tuple of `Hotword`"
    none = f" `None`: {declaration.none}." if declaration.none else ""
    return [
        name,
        words + (" or `None`" if option.has_none else ""),
        default,
        span(declaration.low, declaration.high),
        declaration.unit,
        command,
        ", ".join(clients),
        declaration.help + none,
    ]


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION]
    columns = ["option", "type", "default", "range", "unit", "command line", "clients", "meaning"]
    for cls, title in CLASSES:
        inherited = {each.name: each for base in cls.__mro__[1:-1] for each in declared(base)}
        own = [each for each in declared(cls) if inherited.get(each.name) != each]
        lines += [f"## {title}", "", " ".join((inspect.getdoc(cls) or "").split()), ""]
        lines += table(columns, map(row, own))
    return "\n".join(lines)
