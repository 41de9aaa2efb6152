import json
import tarfile
from functools import partial

import fsspec
import numpy as np
import pytest
import soundfile

from unichoir.data.manifest import load_utterance, read_manifest


@pytest.fixture
def run(run_command):
    """Runs `unichoir shard` in this process: exit code, standard output, standard error."""
    return partial(run_command, "shard")


def make_manifest(folder, name, keys):
    lines = []
    for number, key in enumerate(keys):
        wav = f"{name}-{number}.wav"
        samples = np.random.default_rng(number).standard_normal(8000 * (number + 1))
        soundfile.write(folder / wav, (3000 * samples).astype(np.int16), 16000)
        lines.append(json.dumps({"key": key, "wav": wav, "txt": f"TEXT OF {key}"}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder / f"{name}.jsonl"


def test_manifests_become_one_corpus(run, run_command, tmp_path):
    first, second = make_manifest(tmp_path, "first", "abc"), make_manifest(tmp_path, "second", "de")
    out = tmp_path / "out"
    code, written, said = run(first, second, out, "--utterances", 2, "--workers", 2)
    assert (code, written) == (0, "")
    size = sum(path.stat().st_size for path in out.glob("*.tar"))
    # 0.5 + 1 + 1.5 and 0.5 + 1 seconds
    assert said == f"{out}: 3 shards, 5 utterances, {4.5 / 3600:.2f} hours, {size / 1e6:.1f} MB\n"
    utterances = read_manifest(out)
    assert sorted((utterance.key, utterance.txt) for utterance in utterances) == [
        (key, f"TEXT OF {key}") for key in "abcde"
    ]
    originals = {utterance.key: utterance for path in (first, second) for utterance in read_manifest(path)}
    for utterance in utterances:
        np.testing.assert_array_equal(load_utterance(utterance), load_utterance(originals[utterance.key]))
    assert "3 shards (3 of them from before), 5 utterances" in run(first, second, out, "--utterances", 2)[2]
    assert run_command("tokenizer", "chars", out, "--output", tmp_path / "tokenizer")[0] == 0
    assert "T" in (tmp_path / "tokenizer/units.txt").read_text()


def test_options_decide_what_is_written(run, tmp_path):
    manifest = make_manifest(tmp_path, "list", "abcdefgh")

    def names(out, *options):
        assert run(manifest, tmp_path / out, *options)[0] == 0
        with tarfile.open(tmp_path / out / "000000.tar") as archive:
            return [name for name in archive.getnames() if not name.endswith(".txt")]

    in_order = [f"{key}.opus" for key in "abcdefgh"]
    assert names("plain", "--no-shuffle", "--codec", "opus") == in_order
    mixed = names("mixed", "--codec", "keep")
    assert sorted(mixed) == [f"{key}.wav" for key in "abcdefgh"] != mixed
    other = names("other", "--codec", "keep", "--seed", 1)
    assert sorted(other) == sorted(mixed)
    assert other != mixed


def test_what_is_left_out_is_named(run, tmp_path):
    manifest = make_manifest(tmp_path, "list", ["a", "../b", "c\nd", "e"])
    (tmp_path / "list-3.wav").write_bytes(b"")
    code, written, said = run(manifest, tmp_path / "out", "--no-shuffle")
    assert (code, written) == (1, "")
    *reasons, total, last = said.splitlines()
    assert [reason.partition(" left out: ")[0] for reason in reasons] == ["../b", "c d", "e"]
    assert "list-3.wav: the file is empty" in reasons[2]
    assert total == f"3 left out in total: {tmp_path / 'out/skipped.jsonl'}"
    assert last.startswith(f"{tmp_path / 'out'}: 1 shards, 1 utterances, ")
    assert [utterance.key for utterance in read_manifest(tmp_path / "out")] == ["a"]


def test_a_key_in_two_manifests(run, tmp_path):
    first, second = make_manifest(tmp_path, "first", "ab"), make_manifest(tmp_path, "second", "b")
    code, _, said = run(first, second, tmp_path / "out")
    assert (code, said) == (1, f"error: {second}: key 'b' was already used in {first}\n")
    assert not (tmp_path / "out").exists()


def test_a_manifest_by_url(run, tmp_path):
    manifest = make_manifest(tmp_path, "list", "ab")
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/corpus/{path.name}": path.read_bytes() for path in tmp_path.iterdir()})
    try:
        assert run("memory://corpus/list.jsonl", tmp_path / "out", "--no-shuffle")[0] == 0
    finally:
        memory.rm("/corpus", recursive=True)
    for copy, original in zip(read_manifest(tmp_path / "out"), read_manifest(manifest), strict=True):
        np.testing.assert_array_equal(load_utterance(copy), load_utterance(original))


def test_indexes_of_wenets_shards(run, tmp_path):
    manifest = make_manifest(tmp_path, "list", "ab")
    assert run(manifest, tmp_path / "made", "--utterances", 1, "--no-shuffle")[0] == 0
    (tmp_path / "data.list").write_text("made/000000.tar\nmade/000001.tar\nmade/none.tar\n")
    code, _, said = run("--index", tmp_path / "data.list", tmp_path / "out")
    assert code == 1
    assert f"{tmp_path / 'made/none.tar'} left out: {tmp_path / 'made/none.tar'}: No such file" in said
    assert f"{tmp_path / 'out'}: 2 shards, 2 utterances, " in said
    assert read_manifest(tmp_path / "out") == read_manifest(tmp_path / "made")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "a.list", "out", "--codec", "opus"], "--codec: has no effect with --index"),
        (["--index", "a.list", "out", "--utterances", "5"], "--utterances: has no effect with --index"),
        (["--index", "a.list", "out", "--no-shuffle"], "--shuffle: has no effect with --index"),
        (["a.jsonl", "out", "--no-shuffle", "--seed", "1"], "--seed: has no effect with --no-shuffle"),
        (["a.jsonl", "out", "--codec", "mp3"], "mp3"),
        (["a.jsonl", "out", "--workers", "0"], "--workers"),
        (["a.jsonl"], "Missing argument"),
    ],
)
def test_command_lines_that_make_no_sense(run, arguments, message):
    code, _, said = run(*arguments)
    assert code == 2
    assert message in " ".join(said.replace("│", " ").split())


def test_a_manifest_that_is_not_there(run, tmp_path):
    code, _, said = run(tmp_path / "none.jsonl", tmp_path / "out")
    assert (code, said) == (1, f"error: {tmp_path / 'none.jsonl'}: No such file or directory\n")
