"""Options that several commands share, declared once: a parameter that is a dataclass stands for its fields."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from copy import copy
from typing import Annotated, Any, get_args, get_type_hints

from typer.models import ParameterInfo


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with every parameter that is a dataclass replaced by its fields, as typer reads them.

    A class attribute PANEL, if there is one, is the heading of those of its options that name no other in `--help`.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            parameters += _options(groups[parameter.name])
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))

    def run(**values: Any) -> None:
        made = {name: _make(group, values) for name, group in groups.items()}
        own = {name: value for name, value in values.items() if name in hints and name not in groups}
        command(**own, **made)

    run.__doc__, run.__name__, run.__module__ = command.__doc__, command.__name__, command.__module__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


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
    """The same annotation, its option under the heading `panel`."""
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


def _make(group: Any, values: Mapping[str, Any]) -> Any:
    return group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
