import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from tests.data.corpora import json_lines, make_utterances, members, noise

from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.data.shard_writer import write_shards
from unichoir.errors import ConfigError, ManifestError


def contents(folder):
    """Return the files of a corpus, without the journal of its creation."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("journal.jsonl", "plan.json"))
    return {name: (folder / name).read_bytes() for name in names}


def test_what_is_written_is_what_wenet_reads(tmp_path):
    utterances = make_utterances(tmp_path / "audio", 7)
    report = write_shards(utterances, tmp_path / "out", per_shard=3, seed=None)
    assert (report.shards, report.kept, report.utterances, report.skipped) == (3, 0, 7, {})
    assert report.seconds == pytest.approx(sum(0.1 + 0.01 * number for number in range(7)))
    listed = json_lines(tmp_path / "out/shards.jsonl")
    assert [entry["shard"] for entry in listed] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [entry["utterances"] for entry in listed] == [3, 3, 1]
    assert report.bytes == sum(entry["bytes"] for entry in listed)
    expected = iter(range(7))
    for entry in listed:
        path = tmp_path / "out" / entry["shard"]
        found, index = members(path), json_lines(tmp_path / "out" / entry["index"])
        assert path.stat().st_size == entry["bytes"]
        assert path.stat().st_size % tarfile.RECORDSIZE == 0
        assert entry["seconds"] == pytest.approx(sum(line["duration"] for line in index))
        for place, line in enumerate(index):
            number = next(expected)
            (text_name, text), (audio_name, audio) = found[2 * place : 2 * place + 2]
            assert (text_name, text.decode()) == (f"k{number}.txt", f"text {number} 你好")
            assert audio_name == f"k{number}.flac"
            samples, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
            np.testing.assert_array_equal(samples, noise(number, 1600 + 160 * number))
            assert rate == 16000
            assert path.read_bytes()[line["offset"] : line["offset"] + line["size"]] == audio
            assert {name: line[name] for name in line if name not in ("offset", "size")} == {
                "key": f"k{number}",
                "txt": f"text {number} 你好",
                "duration": pytest.approx(0.1 + 0.01 * number),
                "speaker": f"s{number % 3}",
            }
    with tarfile.open(tmp_path / "out/000000.tar") as archive:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in archive} == {
            (0, 0, 0, "", 0o644)
        }
    # Umask permitting, others may read them: shards are served and shared.
    (tmp_path / "plain").touch()
    assert (tmp_path / "out/000000.tar").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_kept_files_are_copied_byte_by_byte(tmp_path):
    utterances = [
        utterance
        for container in ("WAV", "FLAC", "OGG", "MP3")
        for utterance in make_utterances(tmp_path / container, 1, container)
    ]
    utterances = [replace(utterance, key=f"{number}") for number, utterance in enumerate(utterances)]
    opus = io.BytesIO()
    soundfile.write(opus, noise(9), 16000, format="OGG", subtype="OPUS")
    (tmp_path / "misnamed.wav").write_bytes(opus.getvalue())
    soundfile.write(tmp_path / "a.aiff", noise(5), 16000)
    utterances += [
        Utterance(key="opus", wav=str(tmp_path / "misnamed.wav"), txt=""),
        Utterance(key="part", wav=utterances[0].wav, txt="", start=0.05, end=0.09),
        Utterance(key="aiff", wav=str(tmp_path / "a.aiff"), txt=""),
    ]
    write_shards(utterances, tmp_path / "out", codec="keep", seed=None)
    found = dict(members(tmp_path / "out/000000.tar"))
    for utterance, name in zip(utterances[:5], ("0.wav", "1.flac", "2.ogg", "3.mp3", "opus.opus"), strict=True):
        assert found[name] == Path(utterance.wav).read_bytes()
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(found["part.flac"]), dtype="int16")[0], noise(0)[800:1440])
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(found["aiff.flac"]), dtype="int16")[0], noise(5))
    # From shards again: what is kept is the file within the tar.
    write_shards(read_manifest(tmp_path / "out"), tmp_path / "again", codec="keep", seed=None)
    assert members(tmp_path / "again/000000.tar") == members(tmp_path / "out/000000.tar")


@pytest.mark.parametrize(("codec", "suffix"), [("opus", "opus"), ("vorbis", "ogg")])
def test_lossy_codecs(tmp_path, codec, suffix):
    tone = (8000 * np.sin(np.arange(44100) * 2 * np.pi * 440 / 44100)).astype(np.int16)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], axis=1), 44100)
    utterance = Utterance(key="a", wav=str(tmp_path / "tone.wav"), txt="x", start=0.25, end=0.75)
    write_shards([utterance], tmp_path / "out", codec=codec)
    (_, (name, audio)) = members(tmp_path / "out/000000.tar")
    assert name == f"a.{suffix}"
    samples, rate = soundfile.read(io.BytesIO(audio))
    assert samples.ndim == 1
    assert len(samples) / rate == pytest.approx(0.5, abs=1e-3)
    (copy,) = read_manifest(tmp_path / "out")
    assert copy.duration == pytest.approx(0.5, abs=1e-3)
    middle, wanted = load_utterance(copy)[2000:6000], load_utterance(utterance)[2000:6000]
    assert np.corrcoef(middle, wanted)[0, 1] > 0.99


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    utterances = make_utterances(tmp_path / "audio", 9)
    (tmp_path / "audio/4.wav").write_bytes(b"noise")
    calls = []
    reports = [
        write_shards(
            utterances,
            tmp_path / f"out{workers}",
            per_shard=2,
            codec="opus",
            workers=workers,
            progress=lambda done, total: calls.append((done, total)),
        )
        for workers in (1, 2)
    ]
    assert reports[0] == reports[1]
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    assert calls == [(done, 5) for done in range(6)] * 2


def test_the_order_is_a_function_of_the_seed(tmp_path):
    utterances = make_utterances(tmp_path / "audio", 30)
    orders = []
    for number, seed in enumerate((0, 0, 1, None)):
        write_shards(utterances, tmp_path / f"{number}", per_shard=7, seed=seed)
        orders.append([utterance.key for utterance in read_manifest(tmp_path / f"{number}")])
    assert orders[0] == orders[1]
    assert orders[3] == [utterance.key for utterance in utterances]
    assert orders[0] != orders[2] != orders[3] != orders[0]
    assert all(sorted(order) == sorted(orders[3]) for order in orders)


HOSTILE = ["../x", "/etc/x", "a/../b", "a//b", ".", "a\nb", "a\\b", "a\x7fb"]


def test_what_cannot_be_written_is_named_and_the_rest_goes_on(tmp_path):
    utterances = make_utterances(tmp_path / "audio", 4)
    (tmp_path / "audio/1.wav").write_bytes((tmp_path / "audio/1.wav").read_bytes()[:500])
    (tmp_path / "audio/2.wav").unlink()
    good = replace(utterances[0], key="dir/ключ.1")
    utterances += [
        *(replace(utterances[0], key=key) for key in HOSTILE),
        replace(utterances[0], key="late", start=5.0),
        good,
    ]
    for codec in ("flac", "keep"):
        out = tmp_path / codec
        report = write_shards(utterances, out, per_shard=5, codec=codec, seed=None)
        assert list(report.skipped) == ["k1", "k2", *HOSTILE, "late"]
        assert "truncated" in report.skipped["k1"]
        assert "2.wav: No such file" in report.skipped["k2"]
        assert "key '../x' cannot be the name of a file" in report.skipped["../x"]
        assert {entry["key"]: entry["reason"] for entry in json_lines(out / "skipped.jsonl")} == report.skipped
        assert [utterance.key for utterance in read_manifest(out)] == ["k0", "k3", "dir/ключ.1"]
        # The second shard has nothing usable: it is not listed.
        assert [entry["shard"] for entry in json_lines(out / "shards.jsonl")] == ["000000.tar", "000002.tar"]
        names = [name for path in sorted(out.glob("*.tar")) for name, _ in members(path)]
        assert not any(".." in name or name.startswith("/") for name in names)
        again = write_shards(utterances, out, per_shard=5, codec=codec, seed=None)
        assert again == replace(report, kept=3)


def test_nothing_usable(tmp_path):
    utterance = Utterance(key="a", wav=str(tmp_path / "none.wav"), txt="")
    with pytest.raises(ManifestError, match=r"out: no usable utterance \(a: .*none\.wav: No such file"):
        write_shards([utterance], tmp_path / "out")
    with pytest.raises(ManifestError, match="no usable utterance"):
        write_shards([], tmp_path / "empty")


def test_what_is_refused_before_any_work(tmp_path):
    first, second = make_utterances(tmp_path / "audio", 2)
    with pytest.raises(ManifestError, match=r"key 'k0' occurs twice: .*0\.wav and .*1\.wav"):
        write_shards([first, replace(second, key="k0")], tmp_path / "out")
    for bad in ({"per_shard": 0}, {"workers": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            write_shards([first], tmp_path / "out", **bad)
    assert not (tmp_path / "out").exists()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/000000.tar").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"foreign/000000\.tar: already exists and belongs to something else"):
        write_shards([first], tmp_path / "foreign")
    assert (tmp_path / "foreign/000000.tar").read_bytes() == b"precious"


def test_another_corpus_in_the_same_folder_is_refused(tmp_path):
    utterances = make_utterances(tmp_path / "audio", 3)
    out = tmp_path / "out"
    write_shards(utterances, out, per_shard=2)
    before = contents(out)
    for change, message in [
        ({"per_shard": 3}, "another per_shard"),
        ({"codec": "keep", "seed": 1}, "another codec and another seed"),
    ]:
        with pytest.raises(ConfigError, match=f"out: was started with {message}: choose another folder"):
            write_shards(utterances, out, **{"per_shard": 2, **change})
    changed = [replace(utterances[0], txt="another text"), *utterances[1:]]
    for others in (changed, utterances[:2]):
        with pytest.raises(ConfigError, match="out: was started with other utterances"):
            write_shards(others, out, per_shard=2)
    (out / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match=r"plan\.json: not JSON"):
        write_shards(utterances, out, per_shard=2)
    assert contents(out) == before


def test_damaged_shards_are_written_again(tmp_path):
    utterances = make_utterances(tmp_path / "audio", 10)
    out = tmp_path / "out"
    write_shards(utterances, out, per_shard=2)
    before = contents(out)
    os.truncate(out / "000001.tar", 2000)
    (out / "000002.jsonl").write_text("")
    (out / "000003.tar").unlink()
    (out / "shards.jsonl").unlink()
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('nonsense\n{"number": 4, "shard": "000004.tar", "ind')
    assert write_shards(utterances, out, per_shard=2).kept == 2
    assert contents(out) == before
    assert write_shards(utterances, out, per_shard=2).kept == 5


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


WRITE = """
import sys
from pathlib import Path
from unichoir.data.manifest import read_manifest
from unichoir.data.shard_writer import write_shards
if __name__ == "__main__":
    write_shards(read_manifest(sys.argv[1]), Path(sys.argv[2]), per_shard=2, seed=None, workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("workers", "end", "leftovers"),
    [(1, signal.SIGKILL, 1), (2, signal.SIGKILL, 1), (1, signal.SIGINT, 0), (2, signal.SIGINT, 1)],
)
def test_a_killed_run_goes_on(tmp_path, workers, end, leftovers):
    utterances = make_utterances(tmp_path / "audio", 12)
    entries = [{"key": utterance.key, "wav": utterance.wav, "txt": utterance.txt} for utterance in utterances]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    write_shards(read_manifest(manifest), tmp_path / "whole", per_shard=2, seed=None)

    # A pipe that nobody writes to holds the run up within its fourth shard.
    blocked = tmp_path / "audio/7.wav"
    shutil.move(blocked, tmp_path / "7.wav")
    os.mkfifo(blocked)
    script = tmp_path / "write.py"
    script.write_text(WRITE)
    out = tmp_path / "out"
    done = 3 if workers == 1 else 5
    process = subprocess.Popen([sys.executable, script, manifest, out, str(workers)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or len(list(out.glob("0*.jsonl"))) == done)
        wait_until(lambda: process.poll() is not None or (out / "journal.jsonl").read_text().count("\n") == done)
        wait_until(lambda: process.poll() is not None or list(out.glob("000003.tar.*.tmp")))
        assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(end)
        assert process.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, "workers outlive the run that started them"
    assert len(list(out.glob("*.tmp"))) == leftovers
    assert not (out / "shards.jsonl").exists()

    blocked.unlink()
    shutil.move(tmp_path / "7.wav", blocked)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("0*.tar")}
    report = write_shards(read_manifest(manifest), out, per_shard=2, seed=None, workers=workers)
    assert (report.shards, report.kept) == (6, done)
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert contents(out) == contents(tmp_path / "whole")
