"""Each corpus in its published layout becomes the right manifests; errors are named and cost only their part."""

import gc
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.corpora import layouts
from tests.corpora.layouts import RATE, Layout, Spoken

from unichoir.cli.prepare import Name
from unichoir.corpora.catalog import CORPORA
from unichoir.data.manifest import Utterance, load_utterance, read_manifest

pytest.importorskip("lhotse")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lhotse_leaves_files_open() -> Iterator[None]:
    """Close the files that lhotse leaves open if it cannot read their audio."""
    yield
    gc.collect()


def pitch(utterance: Utterance) -> float:
    """Return the strongest frequency of an utterance's audio in Hz."""
    samples = load_utterance(utterance)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=4 * RATE))
    return float(np.argmax(spectrum)) / 4


def check_manifest(path: Path, spoken: list[Spoken], lang: str) -> None:
    found = {utterance.key: utterance for utterance in read_manifest(path)}
    assert sorted(found) == sorted(one.key for one in spoken)
    for one in spoken[:6]:
        utterance = found[one.key]
        assert (utterance.txt, utterance.speaker, utterance.lang) == (one.txt, one.speaker, lang)
        # Encoded as MP3, a clip is longer by up to two frames.
        assert utterance.duration == pytest.approx(one.seconds, abs=0.15 if path.parent.name == "de" else 1e-4)
        assert pitch(utterance) == pytest.approx(one.hertz, abs=5)


@pytest.mark.parametrize("make", layouts.ALL, ids=lambda make: make.__name__)
def test_manifests(make: Callable[[Path], Layout], tmp_path: Path, run_command: Run) -> None:
    layout = make(tmp_path / "corpus")
    code, out, err = run_command("prepare", layout.name, layout.folder, *layout.options)
    assert (code, out) == (0, ""), err
    home = layout.home or layout.folder
    assert {path.stem for path in home.glob("*.jsonl")} == set(layout.splits)
    for split, spoken in layout.splits.items():
        check_manifest(home / f"{split}.jsonl", spoken, layout.lang)
        assert f"{split}.jsonl: {len(spoken)} utterances" in err
    assert {path.name.split(".")[0] for path in home.glob("*.left_out.txt")} == set(layout.left_out)
    for split, reasons in layout.left_out.items():
        lines = (home / f"{split}.left_out.txt").read_text().splitlines()
        named = dict(line.split("\t") for line in lines)
        assert named.keys() == reasons.keys()
        assert len(lines) == len(reasons)
        assert all(reason in named[key] for key, reason in reasons.items())
        assert f"{len(reasons)} left out in total" in err
        assert all(key in err for key in list(reasons)[:3])


def test_hours_of_all_corpora_are_in_the_account(tmp_path: Path, run_command: Run) -> None:
    layout = layouts.gigaspeech(tmp_path)
    assert run_command("prepare", "gigaspeech", tmp_path)[0] == 0
    account = json.loads((tmp_path / "prepared.json").read_text())
    assert account["corpus"] == "gigaspeech"
    assert account["splits"]["train-xl"] == {"utterances": 2, "seconds": 2.0, "left_out": 2, "parts": []}
    assert set(account["splits"]) == set(layout.splits)


def test_manifests_beside_the_audio_can_move_with_it(tmp_path: Path, run_command: Run) -> None:
    layouts.aishell(tmp_path / "here")
    assert run_command("prepare", "aishell", tmp_path / "here")[0] == 0
    assert run_command("prepare", "aishell", tmp_path / "here", "--output", tmp_path / "manifests")[0] == 0
    before = load_utterance(read_manifest(tmp_path / "manifests/dev.jsonl")[0])
    (tmp_path / "here").rename(tmp_path / "there")
    assert np.array_equal(load_utterance(read_manifest(tmp_path / "there/dev.jsonl")[0]), before)
    code, _, err = run_command("prepare", "aishell", tmp_path / "there")
    assert code == 0
    assert err.count("(was there)") == 3


def test_only_the_splits_asked_for(tmp_path: Path, run_command: Run) -> None:
    layouts.librispeech(tmp_path)
    code, _, err = run_command(
        "prepare", "librispeech", tmp_path, "--output", tmp_path / "out", "--split", "train-clean-100"
    )
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == ["train-clean-100.jsonl", "train.jsonl"]
    assert len(read_manifest(tmp_path / "out/train.jsonl")) == 2
    assert run_command("prepare", "librispeech", tmp_path, "--output", tmp_path / "out")[0] == 0
    assert len(read_manifest(tmp_path / "out/train.jsonl")) == 4  # it grows with what is prepared later


@pytest.mark.usefixtures("lhotse_leaves_files_open")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_file_that_cannot_be_read_costs_its_split_alone(tmp_path: Path, run_command: Run) -> None:
    layouts.librispeech(tmp_path)
    root = tmp_path / "LibriSpeech"
    broken = next((root / "dev-clean").rglob("*0001.flac"))
    whole = broken.read_bytes()
    broken.write_bytes(b"fLaC" + bytes(50))
    code, _, err = run_command("prepare", "librispeech", tmp_path)
    assert code == 1
    assert broken.name in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    made = {path.name: path.stat().st_mtime_ns for path in root.glob("*.jsonl")}
    assert set(made) == {"train-clean-100.jsonl", "train-other-500.jsonl"}
    assert not list(root.glob(".*"))
    broken.write_bytes(whole)
    code, _, err = run_command("prepare", "librispeech", tmp_path)
    assert code == 0
    assert {path.name: path.stat().st_mtime_ns for path in root.glob("train-*.jsonl")} == made
    assert err.count("(was there)") == 2
    assert run_command("prepare", "librispeech", tmp_path, "--force")[0] == 0
    assert all((root / name).stat().st_mtime_ns != when for name, when in made.items())


@pytest.mark.usefixtures("lhotse_leaves_files_open")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_what_is_put_together_follows_its_parts(tmp_path: Path, run_command: Run) -> None:
    layouts.librispeech(tmp_path)
    root = tmp_path / "LibriSpeech"
    assert run_command("prepare", "librispeech", tmp_path)[0] == 0
    path = next((root / "train-clean-100").rglob("*.trans.txt"))
    path.write_text(path.read_text().replace("GO DO YOU HEAR", "GO DO YOU SEE"))
    broken = next((root / "train-other-500").rglob("*.flac"))
    whole = broken.read_bytes()
    broken.write_bytes(b"fLaC")
    assert run_command("prepare", "librispeech", tmp_path, "--force")[0] == 1  # stops after the first split
    broken.write_bytes(whole)
    assert run_command("prepare", "librispeech", tmp_path)[0] == 0
    assert [one.txt for one in read_manifest(root / "train.jsonl")].count("GO DO YOU SEE") == 1


@pytest.mark.parametrize(
    ("make", "lost", "named"),
    [
        (layouts.librispeech, "LibriSpeech", "train-clean-100"),
        (layouts.aishell, "data_aishell/transcript", "data_aishell/transcript/aishell_transcript_v0.8.txt"),
        (layouts.aishell, "data_aishell/wav/dev", "data_aishell/wav/dev"),
        (layouts.aishell2, "AISHELL-2/iOS/test", "AISHELL-2/iOS/test/trans.txt"),
        (layouts.wenetspeech, "WenetSpeech.json", "WenetSpeech.json"),
        (layouts.gigaspeech, "GigaSpeech.json", "GigaSpeech.json"),
        (layouts.commonvoice, "cv-corpus-22.0-2025-06-20/de/clips", "clips"),
        (layouts.thchs30, "data_thchs30/data", "data_thchs30/data"),
        (layouts.an4, "etc/an4_test.transcription", "etc/an4_test.transcription"),
    ],
)
def test_what_the_layout_lacks_is_named(
    make: Callable[[Path], Layout], lost: str, named: str, tmp_path: Path, run_command: Run
) -> None:
    layout = make(tmp_path)
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, _, err = run_command("prepare", layout.name, layout.folder, *layout.options)
    assert code == 1
    assert CORPORA[layout.name].title in err
    assert named in err
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"audios": [{"aid": "POD1", "segments": [', "truncated or not JSON"),
        ('{"audios": [{"aid": "POD1", "segments": []}', "truncated or not JSON"),
        ('{"dataset": "GigaSpeech"}', "no list of 'audios'"),
        ('{"audios": [{"aid": "POD1", "segments": [{"sid": "x", "subsets": ["{XL}"]}]}]}', "entry 0 (POD1)"),
        ('{"audios": [{"aid": "POD1", "segments": []}, 7]}', "entry 1 (no JSON object)"),
        ('{"audios": []}', "no utterances"),
        ("", "no list of 'audios'"),
    ],
)
def test_damaged_metadata(content: str, reason: str, tmp_path: Path, run_command: Run) -> None:
    (tmp_path / "GigaSpeech.json").write_text(content)
    code, _, err = run_command("prepare", "gigaspeech", tmp_path)
    assert code == 1
    assert reason in err
    assert str(tmp_path) in err
    assert [path.name for path in tmp_path.iterdir()] == ["GigaSpeech.json"]


def test_metadata_longer_than_a_block(tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unichoir.corpora.metadata.BLOCK_CHARACTERS", 64)
    layout = layouts.wenetspeech(tmp_path)
    content = json.loads((tmp_path / "WenetSpeech.json").read_text())
    # "audios" must stand in the first block.
    (tmp_path / "WenetSpeech.json").write_text(json.dumps({"audios": content["audios"]}, ensure_ascii=False))
    assert run_command("prepare", "wenetspeech", tmp_path)[0] == 0
    for split, spoken in layout.splits.items():
        check_manifest(tmp_path / f"{split}.jsonl", spoken, "zh")


def test_an_old_common_voice_is_refused(tmp_path: Path, run_command: Run) -> None:
    layout = layouts.commonvoice(tmp_path)
    assert layout.home is not None
    path = layout.home / "train.tsv"
    path.write_text(path.read_text().replace("variant\t", "", 1))
    code, _, err = run_command("prepare", "commonvoice", layout.folder, "--language", "de")
    assert code == 1
    assert f"{path}: no column 'variant'" in err


def test_one_folder_holds_manifests_of_one_corpus(tmp_path: Path, run_command: Run) -> None:
    layouts.aishell(tmp_path / "a")
    layouts.an4(tmp_path / "b")
    out = tmp_path / "out"
    assert run_command("prepare", "aishell", tmp_path / "a", "--output", out)[0] == 0
    before = (out / "train.jsonl").read_bytes()
    code, _, err = run_command("prepare", "an4", tmp_path / "b", "--output", out, "--force")
    assert code == 1
    assert "holds manifests of aishell" in err
    assert (out / "train.jsonl").read_bytes() == before
    (out / "prepared.json").write_text('{"corpus": "aishell"}')
    code, _, err = run_command("prepare", "aishell", tmp_path / "a", "--output", out)
    assert code == 1
    assert "prepared.json: damaged" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("nosuch", "."), "'nosuch' is not one of 'librispeech', 'aishell'"),
        (("commonvoice", "."), "--language"),
        (("aishell", ".", "--language", "zh"), "is for Common Voice"),
        (("aishell", ".", "--split", "dev-clean"), "'dev-clean' is not one of train, dev, test"),
        (("aishell", ".", "--mirror", "http://x"), "needs --download"),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...], reason: str, run_command: Run) -> None:
    code, _, err = run_command("prepare", *arguments)
    assert code == 2
    assert reason in " ".join(err.replace("│", " ").split())


def test_the_command_knows_the_corpora() -> None:
    assert get_args(Name) == tuple(CORPORA)


def test_without_lhotse_the_extra_is_named(tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.aishell(tmp_path)
    monkeypatch.setitem(sys.modules, "lhotse", None)
    monkeypatch.delitem(sys.modules, "lhotse.recipes.aishell", raising=False)
    code, _, err = run_command("prepare", "aishell", tmp_path)
    assert code == 1
    assert "pip install 'unichoir[corpora]'" in err


def test_an4_is_split_as_its_users_split_it(fixtures: Path, tmp_path: Path, run_command: Run) -> None:
    """The lists of AN4, written anew from other people's splits of it, give the same splits."""
    splits = {name: (fixtures / "an4" / f"{name}.txt").read_text().split() for name in ("train", "dev", "test")}
    layouts.write_audio(tmp_path / "tone.sph", (300, 0.1), format="NIST")
    for name, keys in (("train", splits["train"] + splits["dev"]), ("test", splits["test"])):
        layouts.write(
            tmp_path / "etc" / f"an4_{name}.transcription", *(f"<s> YES </s> ({key})" for key in sorted(keys))
        )
        folder = tmp_path / "wav" / ("an4_clstk" if name == "train" else "an4test_clstk")
        for key in keys:
            path = folder / key.split("-")[1] / f"{key}.sph"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(tmp_path / "tone.sph")
    assert run_command("prepare", "an4", tmp_path)[0] == 0
    for name, keys in splits.items():
        found = read_manifest(tmp_path / f"{name}.jsonl")
        assert {(one.key, one.speaker) for one in found} == {(key, key.split("-")[1]) for key in keys}
