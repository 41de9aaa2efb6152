"""Cuts written by lhotse, read without it, have the same audio and texts as with lhotse."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.errors import AudioError, ManifestError

lhotse = pytest.importorskip("lhotse")

RATE = 16000


@pytest.fixture
def cuts(tmp_path: Path) -> Any:
    """Two whole recordings of three seconds, of different rates, each with two supervisions."""
    rng = np.random.default_rng(0)
    recordings, supervisions = [], []
    for number, rate in enumerate((RATE, RATE, 8000)):
        path = tmp_path / f"r{number}.wav"
        soundfile.write(path, (3000 * rng.standard_normal(3 * rate)).astype(np.int16), rate)
        recordings.append(lhotse.Recording.from_file(path))
        common = {"recording_id": f"r{number}", "language": "English", "channel": 0}
        supervisions += [
            lhotse.SupervisionSegment(
                id=f"s{number}b", start=1.7, duration=1.00005, text="FOR ALL", speaker="B", **common
            ),
            lhotse.SupervisionSegment(id=f"s{number}a", start=0.5, duration=1.0, text="我们", speaker="A", **common),
        ]
    return lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_recordings(recordings),
        supervisions=lhotse.SupervisionSet.from_segments(supervisions),
    )


def check(found: list[Utterance], cuts: Any) -> None:
    """Compare samples and texts with lhotse's."""
    by_id = {cut.id: cut for cut in cuts}
    assert [utterance.key for utterance in found] == list(by_id)
    for utterance in found:
        cut = by_id[utterance.key]
        samples = load_utterance(utterance, sample_rate=cut.sampling_rate)
        expected = cut.load_audio()[0]
        assert abs(len(samples) - len(expected)) <= 1  # lhotse rounds the length, we round the end
        count = min(len(samples), len(expected))
        np.testing.assert_allclose(samples[:count], expected[:count], atol=1e-4)
        assert utterance.duration == pytest.approx(cut.duration)
        in_time = sorted(cut.supervisions, key=lambda supervision: supervision.start)
        assert utterance.txt == " ".join(supervision.text for supervision in in_time)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz", "libri_cuts_dev.jsonl.gz", "raw.jsonl.gz"])
def test_files(cuts: Any, name: str, tmp_path: Path) -> None:
    cuts.to_file(tmp_path / name)
    check(read_manifest(tmp_path / name), cuts)


def test_parts_of_recordings(cuts: Any, tmp_path: Path) -> None:
    parts = cuts.trim_to_supervisions(keep_overlapping=False).to_eager()
    parts.to_file(tmp_path / "cuts.jsonl")
    found = read_manifest(tmp_path / "cuts.jsonl")
    check(found, parts)
    speakers = {cut.id: cut.supervisions[0].speaker for cut in parts}
    assert {one.key: one.speaker for one in found} == speakers
    assert {one.lang for one in found} == {"English"}


def test_speakers_of_a_cut_of_several_are_not_one(cuts: Any, tmp_path: Path) -> None:
    cuts.to_file(tmp_path / "cuts.jsonl")
    (one, *_) = read_manifest(tmp_path / "cuts.jsonl")
    assert (one.txt, one.speaker, one.lang) == ("我们 FOR ALL", "", "English")
    assert (one.start, one.end) == (None, None)


@pytest.mark.parametrize("codec", ["flac", "wav"])
def test_shar(cuts: Any, codec: str, tmp_path: Path) -> None:
    parts = cuts.trim_to_supervisions(keep_overlapping=False).to_eager()
    shar = tmp_path / "shar"
    shar.mkdir()
    parts.to_shar(shar, fields={"recording": codec}, shard_size=4)
    found = read_manifest(shar)
    assert {Path(one.wav).name for one in found} == {"recording.000000.tar", "recording.000001.tar"}
    check(found, parts)


def test_relative_paths_are_lhotses(cuts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = lhotse.CutSet.from_cuts(
        lhotse.Recording.from_file(f"r{number}.wav").to_cut() for number in range(2)
    ).to_eager()
    (tmp_path / "manifests").mkdir()
    relative.to_file("manifests/cuts.jsonl")
    check(read_manifest("manifests/cuts.jsonl"), relative)


def test_resampling_is_left_to_the_reader(cuts: Any, tmp_path: Path) -> None:
    cuts.resample(8000).to_file(tmp_path / "cuts.jsonl")
    cuts.to_file(tmp_path / "raw_cuts.jsonl")
    (resampled, *_), (raw, *_) = read_manifest(tmp_path / "cuts.jsonl"), read_manifest(tmp_path / "raw_cuts.jsonl")
    assert np.array_equal(load_utterance(resampled), load_utterance(raw))


def stereo(cuts: Any, folder: Path) -> Any:
    soundfile.write(folder / "stereo.wav", np.zeros((1000, 2)), RATE)
    recording = lhotse.Recording.from_file(folder / "stereo.wav")
    return lhotse.MonoCut(
        id="left", start=0, duration=recording.duration, channel=0, recording=recording, supervisions=[]
    )


def command(cuts: Any, folder: Path) -> Any:
    source = lhotse.audio.AudioSource(type="command", channels=[0], source="rm -rf /")
    recording = lhotse.Recording(id="c", sources=[source], sampling_rate=RATE, num_samples=RATE, duration=1.0)
    return recording.to_cut()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda cuts, _: cuts[0].pad(duration=5.0), "a MixedCut is not one recording"),
        (lambda cuts, _: cuts[0].perturb_speed(1.1), "transformed by Speed"),
        (lambda cuts, _: cuts[0].resample(8000).perturb_volume(2.0), "transformed by Volume"),
        (lambda cuts, _: lhotse.cut.PaddingCut("p", 1.0, RATE, 0.0, num_samples=RATE), "a PaddingCut is not"),
        (stereo, "several channels"),
        (command, "a source of type 'command'"),
    ],
)
def test_what_would_have_to_be_computed_is_refused(
    cuts: Any, make: Callable[[Any, Path], Any], reason: str, tmp_path: Path
) -> None:
    refused = make(cuts, tmp_path)
    path = tmp_path / "cuts.jsonl"
    lhotse.CutSet.from_cuts([cuts[1], refused]).to_file(path)
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}:2: cut '{refused.id}'")
    assert reason in str(error.value)


def test_cuts_of_features_alone_are_refused(cuts: Any, tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl"
    path.write_text(json.dumps({"id": "f", "type": "MonoCut", "start": 0, "duration": 1.0, "features": {}}))
    with pytest.raises(ManifestError, match="has no recording, only features"):
        read_manifest(path)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "7",
        '{"key": "a", "wav": "a.wav", "txt": ""}',
        '{"type": "MonoCut"}',
        '{"type": "MonoCut", "id": "a", "recording": {}}',
        '{"type": "MonoCut", "id": "a", "start": 0, "duration": 1, "recording": {"sampling_rate": 1}}',
        '{"type": "MonoCut", "id": "a", "start": 0, "duration": 1, "recording": 5}',
        '{"type": "MonoCut", "id": "a", "start": 0, "duration": NaN, "recording": {"sampling_rate": 1}}',
        '{"type": "MonoCut", "id": "a", "start": -1, "duration": 1, "recording": {"sampling_rate": 1}}',
        '{"type": "MonoCut", "id": "a", "start": 0, "duration": 0, "recording": {"sampling_rate": 1}}',
        '{"type": "MonoCut", "id": "a", "start": 0, "duration": 1, "supervisions": [{}], "recording": {"sources": 3}}',
    ],
)
def test_what_is_no_cut_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ManifestError, match=r"cuts\.jsonl:2: "):
        read_manifest(path)


def test_damaged_files(cuts: Any, tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    cuts.to_file(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ManifestError, match="truncated or not compressed"):
        read_manifest(path)
    path.write_bytes(b"plain text")
    with pytest.raises(ManifestError, match="truncated or not compressed"):
        read_manifest(path)
    path.write_bytes(gzip.compress(b'{"type": "\xff"}'))
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(path)
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "no_cuts.jsonl")


def test_a_shar_folder_with_gaps(cuts: Any, tmp_path: Path) -> None:
    shar = tmp_path / "shar"
    shar.mkdir()
    cuts.to_shar(shar, fields={"recording": "flac"}, shard_size=3)
    tar = shar / "recording.000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match=r"recording\.000000\.tar"):
        read_manifest(shar)
    other = tmp_path / "other"
    other.mkdir()
    lhotse.CutSet.from_cuts([cuts[0]]).to_shar(other, fields={"recording": "flac"}, shard_size=3)
    tar.write_bytes((other / "recording.000000.tar").read_bytes())
    with pytest.raises(ManifestError, match=f"cut '{cuts[1].id}': .*its recording is not in .*recording.000000.tar"):
        read_manifest(shar)
    tar.unlink()
    with pytest.raises(ManifestError, match=r"recording\.000000\.tar: No such file"):
        read_manifest(shar)


def test_a_missing_recording_is_an_error_of_its_utterance(cuts: Any, tmp_path: Path) -> None:
    cuts.to_file(tmp_path / "cuts.jsonl")
    (tmp_path / "r0.wav").unlink()
    found = read_manifest(tmp_path / "cuts.jsonl")
    with pytest.raises(AudioError, match=r"r0\.wav"):
        load_utterance(found[0])
    assert len(load_utterance(found[1])) == 3 * RATE
