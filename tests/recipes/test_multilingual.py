"""The multilingual recipe on very little speech: every language is scored and drawn with its experts."""

import json
from pathlib import Path

import pytest
from tests.recipes.conftest import RunRecipe
from tests.samples import REFERENCES

from unichoir.data.manifest import read_manifest
from unichoir.text.tokenizer import load_tokenizer

TEXTS = {
    "an4": ("en", ["BAD CAFE", "CAFE BED", "A BED"]),
    "fsdd": ("en", ["FADED BED", "BAD", "ACE"]),
    "arabic_speech_commands": ("ar", ["\u0646\u0639\u0645", "\u0644\u0627 \u0646\u0639\u0645", "\u0644\u0627"]),
    "audio_cmn_words": ("zh", ["天天", "好天", "好"]),
}
TINY = {
    "model.encoder.num_blocks": 1,
    "model.encoder.subsampling_channels": 8,
    "trainer.max_epochs": 1,
    "trainer.precision": "fp32",
    "optim.warmup_steps": 1,
}


def write_corpora(folder: Path) -> None:
    """Write recordings whose speech differs from their texts."""
    clips = read_manifest(REFERENCES)
    for name, (lang, texts) in TEXTS.items():
        (folder / name).mkdir(parents=True)
        for split in ("train", "dev", "test"):
            lines = [
                {"key": f"{split}-{i}", "wav": clips[i].wav, "txt": text, "lang": lang} for i, text in enumerate(texts)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_multilingual(tmp_path: Path, run_recipe: RunRecipe) -> None:
    write_corpora(tmp_path / "data")
    run_recipe("multilingual", tmp_path / "data", changes=TINY, VOCAB="285")
    folder = tmp_path / "exp/multilingual"
    assert list(load_tokenizer(folder / "run/average").languages) == ["en", "ar", "zh"]
    results = json.loads((folder / "results/results.json").read_text(encoding="utf-8"))
    assert len(results["scores"]) == 2 * 2 * 2  # sets, modes, chunk sizes
    assert all(set(score["languages"]) == {"en", "ar", "zh"} for score in results["scores"])
    assert set(results["expert_load_by_language"]) == {"en", "ar", "zh"}
    assert (folder / "results/experts.svg").is_file()
    table = (folder / "results/languages.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    names = [f"exp/multilingual/{split}.jsonl [{lang}]" for split in ("dev", "test") for lang in ("ar", "en", "zh")]
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == ["3", "6", "3", "3", "3", "3"]  # fsdd has English in dev alone
    assert all(0 <= float(row[2]) <= 100 for row in rows)
