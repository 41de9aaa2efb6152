"""Every recipe runs from manifests to word error rates, on a folder of the same layout with very little speech."""

import itertools
import json
import random
from pathlib import Path

import pytest
from tests.recipes.conftest import RunRecipe
from tests.samples import REFERENCES

from unichoir.data.manifest import read_manifest

SYLLABLES = ["ba", "ke", "li", "mo", "nu", "pra", "ste", "tri", "wo", "zu", "fen", "gar", "hil", "jon", "dur"]
TINY = {
    "model.encoder.num_blocks": 1,
    "model.encoder.subsampling_channels": 8,
    "trainer.max_epochs": 1,
    "trainer.precision": "fp32",  # not every processor computes in bf16
}


def write_corpus(folder: Path, seed: int) -> None:
    """Write train, dev and test.jsonl with few and short recordings, whose content doesn't matter here."""
    rng = random.Random(seed)
    words = ["".join(pair).upper() for pair in itertools.permutations(SYLLABLES, 2)]
    clips = read_manifest(REFERENCES)
    folder.mkdir(parents=True)
    for name, count in (("train", 10), ("dev", 1), ("test", 1)):
        lines = [
            {
                "key": f"{folder.name}-{name}-{i}",
                "wav": clips[i % 5].wav,
                "txt": " ".join(rng.sample(words, 4)),
                "lang": "en",
            }
            for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_an4(tmp_path: Path, run_recipe: RunRecipe) -> None:
    write_corpus(tmp_path / "data", seed=1)
    run_recipe("an4", tmp_path / "data", changes=TINY)
    results = json.loads((tmp_path / "exp/an4/results/results.json").read_text())
    assert len(results["scores"]) == 2 * 4 * 2  # sets, modes, chunk sizes
