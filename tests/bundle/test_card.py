"""Model cards are valid by the Hugging Face hub's own reader, invent nothing, and keep what users wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult
from tests.samples import SMALL_MODEL

from unichoir import api
from unichoir.bundle.card import MODEL, NOT_STATED, TITLES, Card
from unichoir.errors import ConfigError
from unichoir.export.card import derived_card
from unichoir.network.checkpoint import load_checkpoint

Run = Callable[..., tuple[int, str, str]]


def results(*scores: dict[str, Any]) -> dict[str, Any]:
    return {"model": "exp/average", "scores": list(scores)}


def score(name: str, wer: float, chunk_size: int | None = None) -> dict[str, Any]:
    return {
        "set": name,
        "mode": "attention_rescoring",
        "chunk_size": chunk_size,
        "num_left_chunks": -1,
        "wer": {"rate": wer, "reference": 773},
        "cer": {"rate": wer / 2},
    }


def read_by_hub(directory: Path) -> ModelCard:
    """Read a card with huggingface_hub, which refuses what the hub would refuse."""
    return ModelCard.load(directory / "README.md")


def test_a_new_card_states_nothing(tmp_path: Path) -> None:
    card = Card.new("mine")
    assert {card.sections[title] for title in TITLES} == {NOT_STATED}
    card.write(tmp_path)
    data = read_by_hub(tmp_path).data.to_dict()
    assert not {"license", "language", "model-index", "datasets"} & set(data)
    assert data["pipeline_tag"] == "automatic-speech-recognition"


def test_the_command_fills_in(tmp_path: Path, run_command: Run, tiny_checkpoint: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((tiny_checkpoint / "config.yaml").read_bytes())
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    files[0].write_text(json.dumps(results(score("an4/test", 0.0428), score("an4/test", 0.0478, 16))))
    files[1].write_text(json.dumps(results(score("other|dev", 1.25))))
    options = ["--licence", "CC-BY-4.0", "--language", "en", "--language", "zh", "--data", "AN4", "--results", files[0]]
    assert run_command("card", tmp_path)[::2] == (
        0,
        f"{tmp_path / 'README.md'}: not stated: training data, training, language, licence, results\n",
    )
    code, _, notes = run_command("card", tmp_path, *options, "--results", files[1])
    assert (code, notes) == (0, f"{tmp_path / 'README.md'}: not stated: training\n")
    card = read_by_hub(tmp_path)
    assert card.data.license == "cc-by-4.0"
    assert card.data.language == ["en", "zh"]
    measured: list[EvalResult] = card.data.eval_results or []
    assert [(each.dataset_name, each.metric_type, each.metric_value) for each in measured] == [
        ("an4/test", "wer", 4.28),
        ("an4/test", "cer", 2.14),
        ("an4/test", "wer", 4.78),
        ("an4/test", "cer", 2.39),
        ("other|dev", "wer", 125.0),
        ("other|dev", "cer", 62.5),
    ]
    assert card.data.model_name == tmp_path.name
    rows = [line for line in card.text.splitlines() if "attention_rescoring" in line]
    assert rows[1] == "| an4/test | attention_rescoring | chunks of 16 | 4.78 | 2.39 | 773 | exp/average |"
    assert rows[2].startswith("| other\\|dev | ")
    assert "| experts" not in card.text
    total = sum(each.numel() for each in load_checkpoint(tiny_checkpoint)[0].parameters())
    assert f"| parameters | {total / 1e6:.1f}M" in card.text


def test_what_people_wrote_is_kept(tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "config.json").write_bytes((SMALL_MODEL / "config.json").read_bytes())
    text = (
        "---\nlicense: mit\nco2: {value: 3}\ntags: [mine]\n---\n# Ours\n\nHello.\n\n## Limits\n\n"
        "```sh\n## no title\n```\n\n## Limits\n\ntwice\n\n## Results\n\nGood.\n"
    )
    (tmp_path / "README.md").write_bytes(text.replace("\n", "\r\n").encode())
    assert run_command("card", tmp_path, "--language", "en")[0] == 0
    written = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(written.split("---\n")[1])
    assert front["license"] == "mit"
    assert front["co2"] == {"value": 3}
    assert front["tags"] == ["mine"]
    assert front["language"] == ["en"]
    assert text.partition("\n---\n")[2] + "\n## Model" in written
    assert "| parameters | 10.8M |" in written
    assert run_command("card", tmp_path)[0] == 0
    assert (tmp_path / "README.md").read_text() == written, "a second time changes nothing"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"---\nlicense: [\n---\n", "front matter: not valid YAML"),
        (b"---\n- 1\n---\n", "front matter: expected a mapping"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_unreadable_cards_are_refused_and_kept(tmp_path: Path, text: bytes, reason: str) -> None:
    (tmp_path / "README.md").write_bytes(text)
    with pytest.raises(ConfigError, match=reason):
        Card.read(tmp_path, "name")
    assert (tmp_path / "README.md").read_bytes() == text


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": "m", "scores": [{}]}', "{"])
def test_other_files_are_no_results(tmp_path: Path, run_command: Run, content: str) -> None:
    (tmp_path / "config.json").write_bytes((SMALL_MODEL / "config.json").read_bytes())
    (tmp_path / "other.json").write_text(content)
    code, _, notes = run_command("card", tmp_path, "--results", tmp_path / "other.json")
    assert code == 1
    assert f"error: {tmp_path / 'other.json'}: not " in notes
    assert not (tmp_path / "README.md").exists()


def test_bad_values_are_refused(tmp_path: Path, run_command: Run) -> None:
    assert "neither a model (config.json) nor a checkpoint" in run_command("card", tmp_path)[2]
    (tmp_path / "config.json").write_bytes((SMALL_MODEL / "config.json").read_bytes())
    assert "language 'English': expected a code" in run_command("card", tmp_path, "--language", "English")[2]
    card = Card.new("mine")
    card.state_licence("My own licence")
    assert (card.metadata["license"], card.metadata["license_name"]) == ("other", "My own licence")
    card.state_licence("MIT")
    assert "license_name" not in card.metadata


def test_a_derived_model_does_not_claim_the_results_of_another(tiny_checkpoint: Path, tmp_path: Path) -> None:
    card = Card.new("source")
    card.state_licence("Apache-2.0")
    card.state_results([results(score("an4/test", 0.05))], ["results.json"])
    card.write(tmp_path)
    config = load_checkpoint(tiny_checkpoint)[0].config
    derived = derived_card(tmp_path, tmp_path / "out", config, "export to ONNX, weights in int8", {"weights": "int8"})
    derived.write(tmp_path)
    read = read_by_hub(tmp_path)
    assert read.data.license == "apache-2.0"
    assert read.data.eval_results is None
    assert "Measured on the model that this one was made from (export to ONNX, weights in int8):" in read.text
    assert "| an4/test |" in read.text
    assert "| weights | int8 |" in derived.sections[MODEL]


def test_the_included_card(fixtures: Path) -> None:
    directory = api.MODELS / api.DEFAULT_MODEL
    card = read_by_hub(directory)
    assert card.data.license == "apache-2.0"
    documented = (fixtures.parents[1] / "docs/results/included-model.md").read_text()
    for each in card.data.eval_results or []:
        chunk = "16" if "chunks of 16" in each.metric_name else "full"
        mode = each.metric_name.partition("(")[2].partition(",")[0]
        row = f"| {each.dataset_name} | {mode} | {chunk} | "
        line = next(line for line in documented.splitlines() if line.startswith(row))  # the newest model stands first
        value = line.split("|")[4 if each.metric_type == "wer" else 9]
        assert float(value) == each.metric_value
    assert card.data.eval_results
