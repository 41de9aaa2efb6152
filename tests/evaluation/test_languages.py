"""Manifests in several languages: each is normalised by its own rules, scored separately, and its experts counted."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unichoir.api import load_recognizer
from unichoir.data.manifest import Utterance, read_manifest
from unichoir.evaluation import evaluate as evaluation
from unichoir.evaluation.evaluate import Evaluation, Recognised, evaluate, plan
from unichoir.evaluation.experts import ExpertsByLanguage, expert_load
from unichoir.evaluation.plot import layer_title, plot_experts
from unichoir.evaluation.report import to_json, to_markdown
from unichoir.network.load import LayerLoad
from unichoir.recognition.options import DecodingOptions

GREEDY = plan(DecodingOptions(mode="ctc_greedy_search"), [None], ["ctc_greedy_search"])
SAID = [
    ("en", "a b", "A c"),
    ("zh", "你好\uff0c世界", "你号世界"),
    ("ar", "\u0623\u064e\u0644", "\u0627\u0644"),
    ("", "x", "x"),
]


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    entries = []
    for number, (lang, text, _) in enumerate(SAID):
        samples = np.random.default_rng(number).normal(0, 0.1, 8000 + 1600 * number)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16000)
        entries.append({"key": str(number), "wav": f"{number}.wav", "txt": text, "lang": lang})
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return read_manifest(tmp_path / "set.jsonl")


@pytest.fixture
def scored(utterances: list[Utterance], tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """An evaluation of a model whose output is the third column."""
    heard = iter(SAID)
    monkeypatch.setattr(
        evaluation,
        "recognize_all",
        lambda recognizer, samples, groups: {groups[0][0]: Recognised(next(heard)[2], [], 0.1)},
    )
    return evaluate(load_recognizer(tiny_model, 1), {"all": utterances}, GREEDY)


def test_each_language_for_itself(scored: Evaluation) -> None:
    whole = scored.scores[0]
    assert list(whole.by_language) == ["", "ar", "en", "zh"]
    errors = {lang: (part[0].words.errors, part[0].words.reference) for lang, part in whole.by_language.items()}
    # Of Arabic the vowel and the hamza are no error, of Mandarin the comma is no character.
    assert errors == {"": (0, 1), "ar": (0, 1), "en": (1, 2), "zh": (1, 4)}
    assert (whole.words.errors, whole.words.reference) == (2, 8)


def test_tables_and_json(scored: Evaluation) -> None:
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in to_markdown(scored).splitlines()[2:]]
    names = [line[0] for line in lines]
    assert names == ["all", "all [unknown]", "all [ar]", "all [en]", "all [zh]"]
    assert [line[3] for line in lines[:5]] == ["25.00", "0.00", "0.00", "50.00", "25.00"]
    [first] = json.loads(json.dumps(to_json(scored, "model")))["scores"]
    assert first["languages"]["zh"]["cer"]["rate"] == 0.25
    assert first["languages"]["en"]["utterances"] == 1


def test_a_set_of_one_language_has_no_further_rows(utterances: list[Utterance], tiny_model: Path) -> None:
    result = evaluate(load_recognizer(tiny_model, 1), {"en": utterances[:1]}, GREEDY)
    assert len(to_markdown(result).splitlines()) == 3
    assert to_json(result, "model")["scores"][0]["languages"] == {}


def test_experts_by_language(utterances: list[Utterance], tiny_checkpoint: Path) -> None:
    recognizer = load_recognizer(tiny_checkpoint)
    watch = ExpertsByLanguage(recognizer.backend)
    evaluate(recognizer, {"set": utterances}, GREEDY, watch=watch)
    whole = expert_load(recognizer.backend)
    for utterance in utterances:
        alone = load_recognizer(tiny_checkpoint)
        evaluate(alone, {"set": [utterance]}, GREEDY)
        assert watch.loads[utterance.lang] == expert_load(alone.backend)
    for name, load in whole.items():
        parts = [np.array(loads[name].frames) for loads in watch.loads.values()]
        assert tuple(np.sum(parts, axis=0)) == load.frames


def test_the_command_writes_them_and_a_picture(
    utterances: list[Utterance], tiny_checkpoint: Path, tmp_path: Path, run_command
):
    manifest = Path(utterances[0].wav).parent / "set.jsonl"
    arguments = ["evaluate", str(tiny_checkpoint), str(manifest), "--decoding", "ctc_greedy_search", "--expert-load"]
    code, out, err = run_command(*arguments, "--output", str(tmp_path / "results"))
    assert code == 0, err
    assert "[zh]" in out
    written = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    for name, load in written["expert_load"].items():
        counts = [loads[name] for loads in written["expert_load_by_language"].values()]
        assert np.sum(counts, axis=0).tolist() == load["frames"]
    assert (tmp_path / "results" / "experts.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_picture_shows_shares_of_each_language(tmp_path: Path) -> None:
    loads = {
        "en": {"encoder.blocks.0.feed_forward": LayerLoad(frames=(3, 1)), "left": LayerLoad(frames=(0, 0))},
        "ar": {"encoder.blocks.0.feed_forward": LayerLoad(frames=(0, 8)), "left": LayerLoad(frames=(0, 0))},
    }
    for name in ("a.svg", "b.svg"):
        plot_experts(loads, tmp_path / name)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    for shown in ("<!-- 75 -->", "<!-- 25 -->", "<!-- 100 -->", "<!-- en -->", "<!-- ar -->", "encoder 1"):
        assert shown in text
    assert "left" not in text  # it has computed nothing


def test_layers_have_names() -> None:
    assert layer_title("encoder.blocks.3.feed_forward_macaron") == "encoder 4, before attention"
    assert layer_title("right_decoder.blocks.0.feed_forward") == "right decoder 1"
