"""The public API: directives that MkDocs fills in from the docstrings."""

from docs.generate.tables import GENERATED

import unichoir
from unichoir.declaration import declared

INTRODUCTION = f"""# Python

`import unichoir` gives you everything on this page. [Options](options.md) and [exceptions](errors.md) have pages of
their own.

{GENERATED}
"""
FIRST = ("load_model", "Model", "Stream", "Transcript", "StreamResult")
"""What most programs need; the rest follows in alphabetical order."""


def page() -> str:
    """Return the whole page."""
    public = [name for name in unichoir.__all__ if not name.startswith("__")]
    lines = [INTRODUCTION]
    for name in [*FIRST, *(name for name in public if name not in FIRST)]:
        lines += [f"::: unichoir.{name}"]
        value = getattr(unichoir, name)
        if isinstance(value, type) and declared_options(value):
            # The signature would repeat the page of options.
            lines += ["    options:", "      show_signature: false", "      members: false"]
        lines += [""]
    return "\n".join(lines)


def declared_options(cls: type) -> bool:
    """Whether the class has a table on the page of options."""
    return hasattr(cls, "__dataclass_fields__") and bool(declared(cls))
