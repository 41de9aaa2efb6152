"""Groups of options: one parameter of a command can stand for many options."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from copy import copy
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ParameterInfo

from unichoir.cli._shared.options import Chosen, Only, Without, choose, parameters


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command for typer, with the options of each group in place of the group.

    A group is a dataclass whose fields have typer's annotations, or `Chosen[...]` of a class with declared options. An
    `Only` or `Without` in its annotation selects among the declared options. A dataclass can have a class attribute
    PANEL: the heading in `--help` for its options that name no other.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, _Group] = {name: group for name, hint in hints.items() if (group := _group(hint)) is not None}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            flat += groups[parameter.name].parameters
        else:
            flat.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        made = {name: group.make(values) for name, group in groups.items()}
        own = {name: value for name, value in values.items() if name in hints and name not in groups}
        command(**own, **made)

    run.__doc__, run.__name__, run.__module__ = command.__doc__, command.__name__, command.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat} | {"return": None}
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    return run


@dataclasses.dataclass(frozen=True)
class _Group:
    parameters: list[inspect.Parameter]
    make: Callable[[Mapping[str, Any]], Any]
    """Makes the group from the values of all options of the command."""


def _group(hint: Any) -> _Group | None:
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)  # type: ignore[assignment]
    if get_origin(hint) is Chosen:
        (kind,) = get_args(hint)
        selection = next((note for note in notes if isinstance(note, Only)), Without())
        return _Group(parameters(kind, selection), lambda values: choose(kind, selection, values))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        group: Any = hint
        names = [field.name for field in dataclasses.fields(group)]
        return _Group(_options(group), lambda values: group(**{name: values[name] for name in names}))
    return None


def _options(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=_in_panel(hints[field.name], getattr(group, "PANEL", None)),
        )
        for field in dataclasses.fields(group)
    ]


def _in_panel(annotation: Any, panel: str | None) -> Any:
    """Return the same annotation, its option under the heading `panel`."""
    if panel is None:
        return annotation
    kind, *notes = get_args(annotation)
    placed = [copy(note) for note in notes]
    for note in placed:
        if isinstance(note, ParameterInfo) and note.rich_help_panel is None:
            note.rich_help_panel = panel
    annotated: Any = Annotated
    inside = (kind, *placed)
    return annotated[inside]
