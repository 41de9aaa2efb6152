from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from unichoir.cli._shared.grouping import grouped


@dataclass(frozen=True, kw_only=True)
class Search:
    PANEL: ClassVar[str] = "How to search"

    width: Annotated[int, typer.Option(min=1, help="Of the beam.")] = 3
    elsewhere: Annotated[bool, typer.Option("--elsewhere", rich_help_panel="Another")] = False


@dataclass(frozen=True, kw_only=True)
class Plain:
    plain: Annotated[str | None, typer.Option(metavar="NAME")] = None


@pytest.fixture
def app() -> tuple[typer.Typer, list[object]]:
    app, calls = typer.Typer(), []

    @app.command()
    @grouped
    def command(
        file: Annotated[str, typer.Argument()],
        search: Search,
        plain: Plain,
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        """Do it."""
        calls.append((file, search, plain, loud))

    return app, calls


def test_options_come_as_groups(app: tuple[typer.Typer, list[object]]) -> None:
    runner, (command, calls) = CliRunner(), app
    assert runner.invoke(command, ["a.wav"]).exit_code == 0
    assert runner.invoke(command, ["b.wav", "--width", "7", "--elsewhere", "--plain", "x", "--loud"]).exit_code == 0
    assert calls == [
        ("a.wav", Search(), Plain(), False),
        ("b.wav", Search(width=7, elsewhere=True), Plain(plain="x"), True),
    ]


def test_options_are_checked(app: tuple[typer.Typer, list[object]]) -> None:
    result = CliRunner().invoke(app[0], ["a.wav", "--width", "0"])
    assert (result.exit_code, app[1]) == (2, [])
    assert "--width" in result.output


def test_help_has_headings(app: tuple[typer.Typer, list[object]]) -> None:
    text = CliRunner().invoke(app[0], ["--help"]).output
    assert "Do it." in text
    plain, searching, other = text.index("─ Options"), text.index("─ How to search"), text.index("─ Another")
    assert plain < text.index("--loud") < searching
    assert searching < text.index("--width") < other < text.index("--elsewhere")
    assert plain < text.index("--plain") < searching
