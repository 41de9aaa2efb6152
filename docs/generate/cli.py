"""Commands and their options, from typer's declarations."""

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import typer
from docs.generate.tables import GENERATED, kind, span, table
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from unichoir.cli import make_app, root

INTRODUCTION = f"""# Command line

`unichoir COMMAND --help` shows the same as this page. A word in capital letters stands for a value: N is a whole
number, X a number, S a number of seconds, FILE and DIR are paths. A wrong command line ends with exit code 2, a command
that fails with 1 ([errors](errors.md)).

{GENERATED}
"""


class Parameter(typing.NamedTuple):
    """An argument or option: its name in Python, type, declaration, and default (`inspect.Parameter.empty`: none)."""

    name: str
    hint: Any
    info: ParameterInfo
    default: Any


def commands(group: typer.Typer, path: str = "unichoir") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the full name and the function of every command."""
    for command in group.registered_commands:
        yield f"{path} {command.name}", typing.cast(Callable[..., Any], command.callback)
    for inner in group.registered_groups:
        yield from commands(typing.cast(typer.Typer, inner.typer_instance), f"{path} {inner.name}")


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Return the arguments and options of a command."""
    hints = getattr(function, "__annotations__", {})
    if not hasattr(function, "__signature__"):
        hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if hints[parameter.name] is typer.Context:
            continue
        hint, *notes = typing.get_args(hints[parameter.name])
        (info,) = (note for note in notes if isinstance(note, ParameterInfo))
        found.append(Parameter(parameter.name, hint, info, parameter.default))
    return found


def names(parameter: Parameter) -> str:
    """Return what a user types for an option."""
    # Within Annotated, typer takes the first name for the default, and moves it later.
    first = parameter.info.default
    given = [*([first] if isinstance(first, str) else []), *(parameter.info.param_decls or [])]
    given = given or [f"--{parameter.name.replace('_', '-')}"]
    return ", ".join(f"`{name}`" for each in given for name in each.split("/"))


def type_of(parameter: Parameter) -> str:
    """Return the type of the value; empty for flags."""
    hint = parameter.hint
    optional = [each for each in typing.get_args(hint) if each is not type(None)]
    if type(None) in typing.get_args(hint):
        hint = optional[0]
    if hint is bool:
        return ""
    words = f"`{parameter.info.metavar}` " if parameter.info.metavar and not typing.get_args(hint) else ""
    low, high = parameter.info.min, parameter.info.max
    limits = span(float("-inf") if low is None else low, float("inf") if high is None else high)
    return f"{words}{kind(hint)}{', ' + limits if limits else ''}"


def default_of(parameter: Parameter) -> str:
    """Return the default as `--help` shows it."""
    shown = parameter.info.show_default
    if isinstance(shown, str):
        return shown if parameter.default is None else f"`{shown}`"
    if parameter.default is inspect.Parameter.empty or parameter.default is ...:
        return "required"
    if parameter.default is None or parameter.default is False or parameter.default == "":
        return ""
    return f"`{parameter.default}`"


def section(path: str, function: Callable[..., Any]) -> list[str]:
    """Return the lines about one command."""
    found = parameters(function)
    arguments = [each for each in found if isinstance(each.info, ArgumentInfo)]
    usage = " ".join([path, "[OPTIONS]", *(str(each.info.metavar or each.name.upper()) for each in arguments)])
    lines = [f"## {path}", "", f"`{usage}`", "", inspect.getdoc(function) or "", ""]
    if arguments:
        rows = [[f"`{each.info.metavar}`", kind_of_argument(each), str(each.info.help)] for each in arguments]
        lines += table(["argument", "type", "meaning"], rows)
    panels: dict[str, list[list[str]]] = {}
    for each in found:
        if isinstance(each.info, OptionInfo):
            variable = f" Environment variable: `{each.info.envvar}`." if each.info.envvar else ""
            row = [names(each), type_of(each), default_of(each), f"{each.info.help}{variable}"]
            panels.setdefault(each.info.rich_help_panel or "Options", []).append(row)
    for title, rows in sorted(panels.items(), key=lambda item: item[0] != "Options"):
        lines += [f"**{title}**", "", *table(["option", "type", "default", "meaning"], rows)]
    return lines


def kind_of_argument(parameter: Parameter) -> str:
    """Return the type of an argument."""
    optional = [each for each in typing.get_args(parameter.hint) if each is not type(None)]
    hint = optional[0] if type(None) in typing.get_args(parameter.hint) else parameter.hint
    return kind(hint).replace("list of", "one or more")


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION, inspect.getdoc(root) or "", ""]
    for path, function in commands(make_app()):
        lines += section(path, function)
    return "\n".join(lines)
