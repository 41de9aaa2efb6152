"""The recipes of public corpora run from a folder of the corpus' layout to error rates and an int8 model."""

import json
from pathlib import Path

import pytest
from tests.corpora import layouts
from tests.recipes.conftest import RunRecipe

from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.network.config import NAMED_CONFIGS
from unichoir.training.config import load_experiment

pytest.importorskip("lhotse")

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CORPORA = ("librispeech", "aishell", "wenetspeech")
TINY = {
    "model": "moe-tiny",
    "model.encoder.num_blocks": 1,
    "model.encoder.subsampling_channels": 8,
    "trainer.max_epochs": 1,
    "trainer.accumulate": 1,
    "trainer.precision": "fp32",
    "trainer.num_workers": 0,
}


@pytest.mark.parametrize("path", sorted(path for name in CORPORA for path in (RECIPES / name).glob("*.yaml")), ids=str)
def test_configurations_load(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.tokenizer == f"exp/{path.parent.name}/tokenizer"
    assert experiment.model.vocab_size == 0  # the tokenizer's


@pytest.mark.parametrize(
    ("recipe", "dense", "experts"),
    [
        ("librispeech", "dense", "moe"),
        ("aishell", "dense", "moe"),
        ("wenetspeech", "dense-225m", "moe-1b"),
    ],
)
def test_the_two_models_of_a_recipe_differ_in_experts_alone(recipe: str, dense: str, experts: str) -> None:
    texts = [(RECIPES / recipe / f"{name}.yaml").read_text().splitlines() for name in (dense, experts)]
    different = [pair for pair in zip(*texts, strict=True) if pair[0] != pair[1] and not pair[0].startswith("#")]
    ((first, second),) = different
    names = [line.removeprefix("  name: ") for line in (first, second)]
    assert [bool(NAMED_CONFIGS[name].encoder.feed_forward.num_experts) for name in names] == [False, True]


@pytest.mark.slow
def test_librispeech(tmp_path: Path, run_recipe: RunRecipe) -> None:
    splits = ("train-clean-100", "train-clean-360", "dev-clean", "dev-other", "test-clean", "test-other")
    layouts.librispeech(tmp_path / "data", splits)
    run_recipe("librispeech", tmp_path / "data", "moe", changes=TINY, WORKERS="1", VOCAB="40")
    results = json.loads((tmp_path / "exp/librispeech/moe/results/results.json").read_text())
    assert len(results["scores"]) == 4 * 4 * 2  # sets, modes, chunk sizes
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "exp").rglob("*") if path.is_file()}
    assert tmp_path / "exp/librispeech/moe/model/encoder.onnx" in made
    said = run_recipe("librispeech", tmp_path / "data", "moe", changes=TINY, WORKERS="1", VOCAB="40")
    assert said.count("(was there)") == len(splits)
    assert {path: path.stat().st_mtime_ns for path in made} == made  # there was nothing left to do


@pytest.mark.slow
def test_aishell(tmp_path: Path, run_recipe: RunRecipe) -> None:
    layouts.aishell(tmp_path / "data")
    (tmp_path / "exp/aishell/dense/model").mkdir(parents=True)  # exporting is slow, and runs in the test above
    run_recipe("aishell", tmp_path / "data", "dense", changes=TINY, WORKERS="1")
    results = json.loads((tmp_path / "exp/aishell/dense/results/results.json").read_text())
    assert len(results["scores"]) == 2 * 4 * 2


@pytest.mark.slow
def test_wenetspeech_up_to_training(tmp_path: Path, run_recipe: RunRecipe) -> None:
    layout = layouts.wenetspeech(tmp_path / "data")
    done = tmp_path / "exp" / "wenetspeech" / "moe-1b"
    for name in ("average", "model", "results"):
        (done / name).mkdir(parents=True)
    (done / "results" / "results.json").touch()
    run_recipe("wenetspeech", tmp_path / "data", "moe-1b", changes=TINY, WORKERS="1", SHARDS="packed")
    found = {one.key: one for one in read_manifest(tmp_path / "packed" / "train-l")}
    assert {key: one.txt for key, one in found.items()} == {one.key: one.txt for one in layout.splits["train-l"]}
    for one in layout.splits["train-l"]:
        assert len(load_utterance(found[one.key])) == one.seconds * layouts.RATE
    units = (tmp_path / "exp/wenetspeech/tokenizer/units.txt").read_text().split()
    assert set(layout.splits["train-m"][0].txt) <= set(units)
