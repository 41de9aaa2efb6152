"""An option that is declared once is checked, is on the command line, and can be chosen by clients."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen, Only, Without
from unichoir.declaration import Option, check_options, client_options, declared
from unichoir.errors import ConfigError, DecodingError
from unichoir.serving.choices import InvalidChoice, choose, from_form
from unichoir.serving.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: Annotated[int, Option("How deep.", low=1, high=9, flag="--depth-of-it")] = 2
    hidden: Annotated[bool, Option("Not a flag.", flag=None)] = False

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class Options:
    size: Annotated[int, Option("How large.", low=1, panel="Shape", http="size", wenet="n")] = 3
    share: Annotated[float | None, Option("How much.", low=0, high=1, none="all", http="share")] = None
    limit: Annotated[
        float | None, Option("How long.", low=0.5, unit="s", none="no limit", zero_is_none=True, endless=True)
    ] = 20.0
    kind: Annotated[Literal["round", "square"], Option("Which.", panel="Shape", http="kind")] = "round"
    loud: Annotated[bool, Option("Whether.", http="loud")] = False
    bytes: Annotated[int, Option("Room.", low=1, flag="--kilobytes", scale=1024)] = 2048
    inner: Annotated[Inner, Option("More.")] = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size: expected a whole number of at least 1, found 0"),
        ({"size": 2.0}, "size: expected a whole number of at least 1, found 2.0"),
        ({"size": True}, "size: expected a whole number of at least 1, found True"),
        ({"size": None}, "size: expected a whole number of at least 1, found None"),
        ({"share": 1.5}, "share: expected a number from 0 to 1 or None, found 1.5"),
        ({"share": math.nan}, "share: expected a number from 0 to 1 or None, found nan"),
        ({"limit": 0.4}, "limit: expected a number of at least 0.5 or None, found 0.4"),
        ({"kind": "oval"}, "kind: 'oval' is not one of round, square"),
        ({"loud": 1}, "loud: expected True or False, found 1"),
        ({"inner": {}}, "inner: expected Inner, found {}"),
    ],
    ids=str,
)
def test_values_are_checked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodingError) as caught:
        Options(**wrong)
    assert str(caught.value) == message
    with pytest.raises(ConfigError):
        declared(Options)[0].check("three", ConfigError)


def test_values_in_range() -> None:
    Options(size=1, share=0, limit=math.inf, kind="square", loud=True, bytes=1)
    Options(share=None, limit=None)


@pytest.fixture
def app() -> tuple[typer.Typer, list[Any]]:
    app, calls = typer.Typer(), []

    @app.command("all")
    @grouped
    def everything(options: Chosen[Options]) -> None:
        calls.append(options.make())

    @app.command("shape")
    @grouped
    def shape(options: Annotated[Chosen[Options], Only("Shape")]) -> None:
        calls.append(options.fields)

    @app.command("rest")
    @grouped
    def rest(options: Annotated[Chosen[Options], Without("Shape", "depth")]) -> None:
        calls.append(options.make(kind="square"))

    return app, calls


def test_the_command_line(app: tuple[typer.Typer, list[Any]]) -> None:
    command, calls = app
    for line in (
        "all",
        "all --size 5 --share 0.5 --limit 0 --kind square --loud --kilobytes 3 --depth-of-it 4",
        "shape --size 4",
        "rest --loud",
    ):
        assert CliRunner().invoke(command, line.split()).exit_code == 0
    full = Options(size=5, share=0.5, limit=None, kind="square", loud=True, bytes=3072, inner=Inner(depth=4))
    assert calls == [Options(), full, {"size": 4, "kind": "round"}, Options(kind="square", loud=True)]


@pytest.mark.parametrize(
    "words", ["--size 0", "--share 2", "--limit 0.4", "--kind oval", "--depth-of-it 10", "--hidden", "--kilobytes 0"]
)
def test_the_command_line_refuses(app: tuple[typer.Typer, list[Any]], words: str) -> None:
    result = CliRunner().invoke(app[0], ["all", *words.split()], env={"COLUMNS": "200"})
    assert (result.exit_code, app[1]) == (2, [])
    assert words.split()[0] in result.output


def test_help(app: tuple[typer.Typer, list[Any]]) -> None:
    text = " ".join(CliRunner().invoke(app[0], ["all", "--help"], env={"COLUMNS": "200"}).output.split())
    assert "How large." in text.partition("Shape")[2]
    assert "How long. 0: no limit." in text
    assert "[default: (all)]" in text
    assert "1<=x<=9" in text
    assert "round|square" in text


def test_clients() -> None:
    http, settings = client_options(Options, "http"), Settings(model_name="m")
    assert http.keys() == {"size", "share", "kind", "loud"}
    assert client_options(Options, "wenet").keys() == {"n"}
    form = {"size": ["4"], "share": ["0.25"], "kind": ["square"], "loud": ["TRUE"]}
    chosen = choose({name: from_form(http[name], texts) for name, texts in form.items()}, http, settings)
    assert replace(Options(), **chosen) == Options(size=4, share=0.25, kind="square", loud=True)
    for name, text in (("size", "0"), ("size", "many"), ("share", "2"), ("kind", "oval"), ("loud", "yes")):
        with pytest.raises(InvalidChoice) as caught:
            choose({name: from_form(http[name], [text])}, http, settings)
        assert (caught.value.name, caught.value.code) == (name, "invalid_value")
