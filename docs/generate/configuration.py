"""The keys of a training's configuration."""

import ast
import dataclasses
import inspect
import sys
import textwrap
import typing
from contextlib import suppress
from typing import Any

from docs.generate.tables import kind, span, table, yaml

from unichoir.network.config import NAMED_CONFIGS
from unichoir.training.config import FREE_KEYS, ExperimentConfig

INTRODUCTION = """# Configuration of a training

`unichoir train` reads one YAML file. This page lists all of its keys. It is generated from the code by
`python -m docs.generate`. [Training](../training/configure.md) shows how to use the keys. Ranges include both ends.

A key that does not exist, a value of the wrong type and a value out of range are errors that name the key. `null` is
YAML's word for no value. You can change any key on the command line: `--set trainer.max_steps=1000`. If you continue a
run, the keys marked with * may change. All others must stay as they were.

`model` also takes a named configuration with some keys changed, such as `{name: moe-small, ctc_weight: 0.5}`. The
names are NAMES.
"""


def texts(cls: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass."""
    (tree,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def ranges(cls: type) -> dict[str, str]:
    """Return the ranges that the class checks with `check_ranges`."""
    found: dict[str, str] = {}
    if "__post_init__" not in vars(cls):
        return found
    namespace, local = vars(sys.modules[cls.__module__]), {}
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls.__post_init__)))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(NameError):  # what depends on the fields has no part in ranges
                local[node.targets[0].id] = eval(ast.unparse(node.value), namespace, local)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check_ranges":
            for keyword in node.keywords:
                value = eval(ast.unparse(keyword.value), namespace, local)
                pairs = value if keyword.arg is None else {keyword.arg: value}
                found.update({name: span(*pair) for name, pair in pairs.items()})
    return found


UNITS = {"ms": "ms", "seconds": "s", "minutes": "min", "db": "dB", "freq": "Hz", "rate": "Hz", "rt60": "s"}
"""Units by the last word of a name."""
NAMED_UNITS = {
    **dict.fromkeys(("min_side", "max_side", "min_distance", "max_distance"), "m"),
    **dict.fromkeys(("max_time_frames", "max_frames", "spec_trim_frames", "max_frames_in_batch"), "feature frames"),
    **dict.fromkeys(("lead_frames", "trail_frames"), "feature frames"),
    **dict.fromkeys(("min_chunk_size", "conv_kernel"), "encoder frames"),
    **dict.fromkeys(("warmup_steps", "max_steps", "log_every", "validate_every", "checkpoint_every_steps"), "updates"),
    "max_epochs": "epochs",
    **dict.fromkeys(("balance_rate", "learning_rate"), ""),
}


def unit(name: str) -> str:
    """Return the unit of a key; empty for keys without a unit."""
    return NAMED_UNITS.get(name, UNITS.get(name.rpartition("_")[2], ""))


def section(hint: Any) -> type | None:
    """Return the dataclass of a nested mapping; None for other types."""
    for each in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(each):
            return typing.cast(type, each)
    return None


def default(field: "dataclasses.Field[Any]") -> str:
    """Return the default in YAML. Nested keys show their own defaults."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return "required" if value is dataclasses.MISSING else yaml(value)


def write_section(cls: type, path: str, lines: list[str], known: dict[type, str]) -> None:
    """Write a table of the keys of a dataclass, then those of what is nested in it."""
    known[cls] = path
    hints, meanings, limits = typing.get_type_hints(cls), texts(cls), ranges(cls)
    lines += [f"## {path or 'Top level'}", "", " ".join((inspect.getdoc(cls) or "").split()), ""]
    nested, rows = [], []
    for field in dataclasses.fields(cls):
        full = f"{path}.{field.name}".lstrip(".")
        name = f"`{field.name}`" + ("*" if full in FREE_KEYS else "")
        inner = section(hints[field.name])
        if inner is not None:
            name = f"[{name}](#{known.get(inner, full).replace('.', '').lower()})"
            nested.append((inner, full))
        limit = limits.get(field.name, "")
        rows.append([name, kind(hints[field.name]), default(field), limit, unit(field.name), meanings[field.name]])
    lines += table(["key", "type", "default", "range", "unit", "meaning"], rows)
    for inner, full in nested:
        if inner not in known:
            write_section(inner, full, lines, known)


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION.replace("NAMES", ", ".join(f"`{name}`" for name in sorted(NAMED_CONFIGS)))]
    write_section(ExperimentConfig, "", lines, {})
    return "\n".join(lines)
