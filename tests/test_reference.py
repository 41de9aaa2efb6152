"""docs/reference is what docs/generate writes, and it says something about all that the code has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.generate import FOLDER, pages
from typer.main import get_command
from typer.testing import CliRunner

import unichoir
from unichoir.cli import make_app
from unichoir.cli._shared.options import Chosen, Without, choose, flag, parameters
from unichoir.configuration import to_mapping
from unichoir.declaration import declared
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
from unichoir.recognition.vad_options import VadOptions
from unichoir.serving.app import make_api
from unichoir.serving.errors import CODES
from unichoir.serving.metrics import Metrics
from unichoir.serving.parameters import NAMES
from unichoir.serving.realtime import CLIENT_EVENTS, SERVER_EVENTS
from unichoir.serving.settings import Settings
from unichoir.serving.wenet import MESSAGES
from unichoir.training.config import ExperimentConfig, experiment_from_mapping

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "configuration.md"
SERVING = ROOT / "src" / "unichoir" / "serving"
OPTIONS = (DecodingOptions, StreamingOptions, VadOptions, EndpointRules, Settings)


def rows() -> dict[str, list[str]]:
    """Return the cells of each key's row, by the key's full name."""
    found, section = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = "" if line == "## Top level" else line[3:] + "."
        elif match := re.match(r"\| \[?`(\w+)`", line):
            found[section + match[1]] = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    return found


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_pages_are_generated_anew_when_the_code_changes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    for name, content in pages().items():
        assert written[name] == content, "run: python -m docs.generate"
        assert name == "index.md" or f"({name})" in written["index.md"]


def test_every_key_has_its_default_and_a_meaning() -> None:
    teacher = {"checkpoint": "folder"}
    mapping = {"tokenizer": "units", "model": "moe-tiny", "trainer": {"max_steps": 1}, "teacher": teacher}
    config = experiment_from_mapping(mapping, "")
    written, named = rows(), set()
    given = {"tokenizer", "trainer.max_steps", "teacher.checkpoint"}
    implied = {"fbank.low_freq", "fbank.snip_edges"}  # by `fbank.kind`

    def check(mapping: dict[str, object], path: str) -> None:
        for key, value in mapping.items():
            # The page shows the layers of the decoders with those of the encoder, whose keys are the same.
            name = f"{path}{key}".replace("decoder.feed_forward.", "encoder.feed_forward.")
            if isinstance(value, dict) and key != "rates":
                check(value, f"{path}{key}.")
                continue
            named.add(name)
            _, kind, default, _, unit, meaning = written[name]
            suffix = name.rpartition("_")[2]
            if suffix in ("ms", "seconds", "minutes", "db"):
                assert unit.lower() in (suffix, suffix[0], suffix[:3])
            assert kind != "keys of its own", name
            assert len(meaning) > 5, name
            if name not in given | implied and not path.startswith("model."):
                assert yaml.safe_load(default.strip("`")) == value or default.strip("`") == str(value), name

    check(to_mapping(config), "")
    sections = {name for name, row in written.items() if row[1].startswith("keys of its own")}
    assert written.keys() == named | sections
    assert len(named) > 120
    assert set(to_mapping(config)) == {name for name in written if "." not in name}
    assert ExperimentConfig.__doc__ in PAGE.read_text(encoding="utf-8")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    if path and not inner:
        yield path
    for name, each in inner.items():
        yield from commands(each, (*path, name))


def test_every_option_that_help_shows_is_on_the_page_of_commands() -> None:
    sections = dict(re.findall(r"(?ms)^## (unichoir [\w -]+)$(.*?)(?=^## |\Z)", read("cli.md")))
    app = make_app()
    paths = list(commands(get_command(app)))
    assert {" ".join(("unichoir", *path)) for path in paths} == sections.keys()
    for path in paths:
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
        flags = set(re.findall(r"^[│|] +\*? *(--[\w-]+)", shown, re.MULTILINE)) - {"--help"}
        assert flags == set(re.findall(r"^\| `(--[\w-]+)", sections[" ".join(("unichoir", *path))], re.MULTILINE)), path


def test_every_option_has_a_meaning_on_the_page_of_options() -> None:
    page = read("options.md")
    for cls in OPTIONS:
        names = {option.name for option in declared(cls)}
        for option in declared(cls):
            assert re.fullmatch(r"[A-Z`].{10,}[.]", option.option.help, re.DOTALL), option.name
            assert f"`{option.name}`" in page
        if cls is not Settings:
            assert names == set(cls.__dataclass_fields__)


@pytest.mark.parametrize("cls", OPTIONS)
def test_the_command_line_has_the_declared_defaults(cls: type) -> None:
    given = {each.name: each.default for each in parameters(cls, Without())}
    shown = [each for each in declared(cls) if each.option.flag is not None and not each.nested]
    assert {flag(each).partition("/")[0] for each in shown} <= {f"--{name.replace('_', '-')}" for name in given}
    own = {"model_name": "m"} if cls is Settings else {}
    chosen: Chosen[Any] = choose(cls, Without(), given)
    assert chosen.make(**own) == cls(**own)


def test_every_form_field_and_status_is_described() -> None:
    described = make_api().openapi()["paths"]["/v1/audio/transcriptions"]["post"]
    schema = described["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = set(schema["properties"])
    refused = {"languages", "known_speaker_names", "known_speaker_references"}
    assert fields == (NAMES - refused) | {"file"}
    assert all(len(field["description"]) > 10 for field in schema["properties"].values())
    page = read("http.md")
    assert all(f"| `{name}` |" in page for name in fields)


def test_every_code_of_an_error_is_described() -> None:
    """As the modules write them: `ApiError(413, ..., code="file_too_large")`."""
    found = {"invalid_value": 400, "unsupported_value": 400, "rate_limit_exceeded": 429}  # in variables
    for path in SERVING.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "ApiError":
                codes = [each.value for each in call.keywords if each.arg == "code"]
                if codes and isinstance(codes[0], ast.Constant) and isinstance(call.args[0], ast.Constant):
                    found[codes[0].value] = call.args[0].value
    described = {code: status for code, (status, _) in CODES.items()}
    assert found.items() <= described.items()
    assert described.keys() - found.keys() == {"server_busy", "server_draining"} - found.keys()


def test_every_event_is_described() -> None:
    text = (SERVING / "realtime.py").read_text(encoding="utf-8")
    sent = set(re.findall(r'"((?:session|input_audio_buffer|conversation\.item)\.\w+)"', text.partition("Handler:")[2]))
    assert sent | {"error"} == {
        name for name in {*CLIENT_EVENTS, *SERVER_EVENTS} if not name.startswith("conversation.item.input_audio")
    }
    kinds = re.findall(r'\{TRANSCRIPTION\}\.(\w+)"', text.partition("Handler:")[2])
    assert {f"conversation.item.input_audio_transcription.{kind}" for kind in kinds} <= SERVER_EVENTS.keys()
    text = (SERVING / "wenet.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"type": "(\w+)"|_send_result\("(\w+)"', text)) == {
        (name, "") if name in ("server_ready", "speech_end") else ("", name) for name in MESSAGES
    }


def test_every_metric_and_every_public_name_is_on_its_page() -> None:
    page = read("metrics.md")
    for name in re.findall(r'"(unichoir_\w+)"', (SERVING / "metrics.py").read_text(encoding="utf-8")):
        assert re.search(rf"^\| `{name}(_total)?` \|.*\| \w[^|]{{9,}} \|$", page, re.MULTILINE), name
    assert len(list(Metrics().registry._collector_to_names)) == 15
    page = read("python.md")
    assert all(f"::: unichoir.{name}\n" in page for name in unichoir.__all__ if name != "__version__")
