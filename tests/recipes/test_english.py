"""The recipe of the included model, from Whisper to error rates, with very little speech and a tiny model."""

import json
import lzma
import random
import shutil
from pathlib import Path

import pytest
from tests.formats import whisper_reference
from tests.recipes.conftest import RunRecipe
from tests.recipes.test_tools import call, script
from tests.samples import REFERENCES, SMALL_MODEL

from unichoir.bundle.sums import check_sums
from unichoir.data.manifest import read_manifest
from unichoir.network.checkpoint import load_checkpoint

SPLITS = {
    "librispeech_part": ("train", "dev", "test"),
    "cv1_dev_en": ("train", "dev", "test"),
    "speechocean762": ("train", "dev", "test"),
    "an4": ("train", "dev", "test"),
    "fsdd": ("train", "dev"),
    "ljspeech_part1": ("train", "dev"),
    "african_storybook_en": ("train",),
    "kathleen_arctic": ("train",),
    "asterisk_prompts": ("train",),
    "picovoice_coffee": ("train",),
    "picovoice_wakewords": ("train",),
    "speech_commands_3w": ("train",),
    "ovos_words": ("train",),
}
TINY = {
    "model.encoder.dim": 32,
    "model.encoder.num_blocks": 1,
    "model.encoder.num_top_blocks": 1,
    "model.decoder.num_blocks": 1,
    "model.decoder.num_reverse_blocks": 1,
    "trainer.max_steps": 2,
    "trainer.precision": "fp32",
    "trainer.num_threads": 1,
    "trainer.num_workers": 0,
    "data.max_frames_in_batch": 1000,
    "augment.rooms.num_responses": 1,
}
SMALL = {"VOCAB": "200", "IMPORT": "--top-blocks 1", "WRITTEN_HOURS": "1e-7"}


def write_data(folder: Path) -> None:
    """Write recordings whose speech differs from their texts, and a text file."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abdeghiklmnoprstu", k=rng.randint(2, 6))) for _ in range(150)]
    clips = read_manifest(REFERENCES)
    for name, splits in SPLITS.items():
        (folder / name).mkdir(parents=True)
        for split in splits:
            lines = [
                {
                    "key": f"{split}-{i}",
                    "wav": clips[i].wav,
                    "txt": " ".join(rng.sample(words, 4)).upper() + ".",
                    "lang": "en",
                    "duration": 2.5,
                }
                for i in range(4 if split == "train" else 1)
            ]
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "text").mkdir()
    text = "".join(" ".join(rng.sample(words, 5)).capitalize() + ".\n" for _ in range(200))
    (folder / "text" / "common_voice_sentences_en.txt").write_text(text)
    with lzma.open(folder / "text" / "english_sentences.txt.xz", "wt", preset=0) as file:
        file.write(text)


@pytest.fixture
def whisper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights in the shape of Whisper base, except for one block and a dimension of 32."""
    for name, value in {"HEADS": 8, "HIDDEN": 2048, "BLOCKS": 1, "POSITIONS": 448}.items():
        monkeypatch.setattr(whisper_reference, name, value)
    folder = whisper_reference.write_huggingface(tmp_path / "whisper", whisper_reference.random_weights())
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(whisper_reference.vocabulary())}))
    return folder


@pytest.mark.slow
def test_english(whisper: Path, tmp_path: Path, run_recipe: RunRecipe) -> None:
    write_data(tmp_path / "data")
    # Weights beside the language model are as good as tuned ones to the recipe, and trying many takes long.
    out = tmp_path / "exp/english"
    (out / "lm").mkdir(parents=True)
    modes = ("attention_rescoring", "ctc_prefix_beam_search")
    weights = {mode: {"lm_weight": 0.3, "length_bonus": 1.0, "oov_penalty": 0.0} for mode in modes}
    (out / "lm/lm.bin.json").write_text(json.dumps(weights))
    # The export of such a checkpoint is tested beside the others; a model that is there is not made again.
    shutil.copytree(SMALL_MODEL, tmp_path / "packaged")
    arguments = ("english", whisper, tmp_path / "data", tmp_path / "packaged")
    run_recipe(*arguments, changes=TINY, **SMALL)
    assert [len(read_manifest(out / f"{name}.jsonl")) for name in ("train", "dev")] == [4 * (13 + 2), 2]
    assert len(read_manifest(out / "train-again.jsonl")) == 4 * (10 + 2 + 6 + 2)
    for name in ("top", "all", "again"):
        model, _ = load_checkpoint(out / f"run-{name}" / "average")
        layer = model.config.encoder.feed_forward
        assert (layer.num_experts, layer.shared_hidden_dim) == ((0, 0) if name == "top" else (4, 1536))
    check_sums(tmp_path / "packaged")
    listed = (tmp_path / "packaged/SHA256SUMS").read_text()
    assert all(name in listed for name in ("encoder.onnx", "punctuation.onnx", "lm.bin", "lm.bin.json"))
    for lm in ("default", "none"):
        results = json.loads((out / f"results-{lm}/results.json").read_text())
        assert len(results["scores"]) == (6 + 4) * 3 * 2  # sets, modes, chunk sizes
    # What is there is not made again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    run_recipe(*arguments, changes=TINY, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_transcripts_become_words_and_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "set" / "train.jsonl"
    source.parent.mkdir()
    source.write_text(json.dumps({"key": "a", "wav": "a.wav", "txt": "DON\u2019T, Mr. X-ray!"}) + "\n")
    call(script("tools/combine"), monkeypatch, "--words", tmp_path / "out" / "all.jsonl", f"{source}:2")
    first, second = read_manifest(tmp_path / "out" / "all.jsonl")
    assert (first.key, second.key) == ("set/a/0", "set/a/1")
    assert first.txt == second.txt == "don't mr x ray"
    assert Path(first.wav).resolve() == source.parent / "a.wav"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all.jsonl"]
