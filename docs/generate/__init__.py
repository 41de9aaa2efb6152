"""Pages of docs/reference, written from the code: `python -m docs.generate`. A test compares pages and code."""

from pathlib import Path

from docs.generate import cli, configuration, errors, http, index, metrics, options, python, websocket

FOLDER = Path(__file__).parent.parent / "reference"


def pages() -> dict[str, str]:
    """Return the content of every page, by file name."""
    modules = (index, cli, configuration, errors, http, metrics, options, python, websocket)
    return {f"{module.__name__.rpartition('.')[2]}.md": module.page() for module in modules}
