"""Write docs/reference/configuration.md from the code: python docs/generate.py. A test compares the two."""

import ast
import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Any

from unichoir.network.config import NAMED_CONFIGS
from unichoir.training.config import FREE_KEYS, ExperimentConfig

OUTPUT = Path(__file__).parent / "reference" / "configuration.md"
TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}
INTRODUCTION = """# Configuration of a training

`unichoir train` reads one YAML file. This page lists all of its keys. It is generated from the code by
`python docs/generate.py`; [Training](../training/configure.md) shows how to use them.

A key that does not exist, a value of the wrong type and a value out of range are errors that name the key. `null` is
YAML's word for no value. You can change any key on the command line: `--set trainer.max_steps=1000`. If you continue a
run, the keys marked with * may change. All others must stay as they were.

`model` also takes a named configuration with some keys changed, such as `{name: moe-small, ctc_weight: 0.5}`. The
names are NAMES.
"""


def texts(cls: type) -> dict[str, str]:
    """What stands below each field of a dataclass."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def kind(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("`null`" if each is type(None) else kind(each) for each in arguments)
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        several = arguments[-1] is Ellipsis
        return f"list of {kind(arguments[0])}s" if several and arguments[0] in TYPES else f"list: {kind(arguments[0])}"
    if origin is dict:
        return f"mapping of {kind(arguments[0])} to {kind(arguments[1])}"
    return TYPES.get(hint, "keys of its own")


def section(hint: Any) -> type | None:
    """The dataclass of a nested mapping."""
    for each in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(each):
            return typing.cast(type, each)
    return None


def default(field: "dataclasses.Field[Any]") -> str:
    """As YAML has it; what has keys of its own has its defaults there."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, bool) or value is None:
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def write_section(cls: type, path: str, lines: list[str], known: dict[type, str]) -> None:
    """A table of the keys of a dataclass, then those of what is nested in it."""
    known[cls] = path
    hints, meanings = typing.get_type_hints(cls), texts(cls)
    lines += [f"## {path or 'Top level'}", "", " ".join((inspect.getdoc(cls) or "").split()), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    nested = []
    for field in dataclasses.fields(cls):
        full = f"{path}.{field.name}".lstrip(".")
        name = f"`{field.name}`" + ("*" if full in FREE_KEYS else "")
        row = [name, kind(hints[field.name]), default(field), meanings[field.name].replace("|", "\\|")]
        inner = section(hints[field.name])
        if inner is not None:
            row[0] = f"[{name}](#{known.get(inner, full).replace('.', '').lower()})"
            nested.append((inner, full))
        lines.append(f"| {' | '.join(row)} |")
    lines.append("")
    for inner, full in nested:
        if inner not in known:
            write_section(inner, full, lines, known)


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION.replace("NAMES", ", ".join(f"`{name}`" for name in sorted(NAMED_CONFIGS)))]
    write_section(ExperimentConfig, "", lines, {})
    return "\n".join(lines)


if __name__ == "__main__":
    OUTPUT.write_text(page(), encoding="utf-8")
