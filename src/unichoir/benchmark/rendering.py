"""Render tables for a terminal, as Markdown and in files; called by `report`, and by `serving.report`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable

from unichoir.benchmark.tables import Table
from unichoir.bundle.replacing import replace_text

Head = Iterable[tuple[str, str]]
"""Where and how the benchmark was run: names and values."""


def as_markdown(title: str, head: Head, tables: Sequence[Table]) -> str:
    """Return title, head and all tables with their notes as Markdown."""
    lines = [f"# {title}", "", *(f"- {name}: {text}" for name, text in head), ""]
    for table in tables:
        rule = ["---"] + ["---:"] * (len(table.columns) - 1)
        rows = [f"| {' | '.join(row)} |" for row in (table.columns, rule, *table.rows)]
        lines += [f"## {table.title}", "", *rows, ""]
        if table.note:
            lines += [table.note, ""]
    return "\n".join(lines)


def for_terminal(head: Head, tables: Sequence[Table]) -> Group:
    """Return head and tables for a terminal."""
    parts: list[Any] = [f"{name}: {text}" for name, text in head]
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", caption=table.note or None, box=SIMPLE_HEAD)
        for place, name in enumerate(table.columns):
            shown.add_column(name, justify="right" if place else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        parts.append(shown)
    return Group(*parts)


def write_files(content: dict[str, Any], markdown: str, directory: Path) -> None:
    """Write results.json and results.md."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    replace_text(directory / "results.json", text + "\n")
    replace_text(directory / "results.md", markdown)
