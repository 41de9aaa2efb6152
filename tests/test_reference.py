"""docs/reference equals the output of docs/generate.py, and describes every key of the configurations."""

import importlib.util
import re
from pathlib import Path

import yaml

from unichoir.configuration import to_mapping
from unichoir.training.config import ExperimentConfig, experiment_from_mapping

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "configuration.md"


def rows() -> dict[str, list[str]]:
    """Return the cells of each key's row, by the key's full name."""
    found, section = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = "" if line == "## Top level" else line[3:] + "."
        elif match := re.match(r"\| \[?`(\w+)`", line):
            found[section + match[1]] = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    return found


def test_the_page_is_generated_anew_when_the_code_changes() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert PAGE.read_text(encoding="utf-8") == generate.page(), "run: python docs/generate.py"


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
            _, kind, default, meaning = written[name]
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
