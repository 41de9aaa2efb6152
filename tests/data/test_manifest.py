import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from unichoir.audio.io import load_audio
from unichoir.data.manifest import Utterance, load_utterance, read_manifest, read_manifests, utterance_duration
from unichoir.errors import AudioError, ManifestError


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16000))).astype(np.float32)


def write_lines(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def make_shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def audio_bytes(seconds, seed=0, container="WAV"):
    stream = io.BytesIO()
    soundfile.write(stream, noise(seconds, seed), 16000, format=container)
    return stream.getvalue()


def test_json_lines(tmp_path):
    path = write_lines(
        tmp_path / "list.jsonl",
        [
            {
                "key": "a",
                "wav": "audio/a.wav",
                "txt": "привет 你好",
                "speaker": "s1",
                "lang": "ru",
                "duration": 1.5,
                "age": 7,
            },
            "",
            {"key": "b", "wav": "/absolute/b.flac", "txt": "", "start": 1, "end": 2.5, "duration": None},
        ],
    )
    assert read_manifest(path) == [
        Utterance(key="a", wav=str(tmp_path / "audio/a.wav"), txt="привет 你好", speaker="s1", lang="ru", duration=1.5),
        Utterance(key="b", wav="/absolute/b.flac", txt="", start=1.0, end=2.5),
    ]


def test_json_lines_are_known_by_their_content_too(tmp_path):
    path = tmp_path / "data.list"
    path.write_bytes(b'\xef\xbb\xbf{"key": "a", "wav": "a.wav", "txt": "x"}\r\n')
    assert [utterance.key for utterance in read_manifest(path)] == ["a"]


GOOD = {"key": "a", "wav": "a.wav", "txt": "x"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a", ', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"key": ' + "1" * 5000 + "}", "not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ({"key": "a", "txt": "x"}, "missing 'wav'"),
        ({**GOOD, "key": 5}, "'key' must be text"),
        ({**GOOD, "key": ""}, "must not be empty"),
        ({**GOOD, "txt": None}, "'txt' must be text"),
        ('{"key": "\\ud800", "wav": "a", "txt": ""}', "'key' must be text"),
        ({**GOOD, "wav": "a\0b"}, "'wav' must be text"),
        ({**GOOD, "speaker": ["x"]}, "'speaker' must be text"),
        ({**GOOD, "start": "1"}, "'start' must be a number"),
        ({**GOOD, "end": True}, "'end' must be a number"),
        ({**GOOD, "duration": -1}, "'duration' must be a number"),
        ('{"key": "a", "wav": "a", "txt": "", "start": NaN}', "'start' must be a number"),
        ({**GOOD, "start": 2, "end": 2}, "before it starts"),
        ({**GOOD, "key": "first"}, r"key 'first' was already used at .*list\.jsonl:1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write_lines(tmp_path / "list.jsonl", [{**GOOD, "key": "first"}, "", line])
    with pytest.raises(ManifestError, match=rf"list\.jsonl:3: .*{message}") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_numbers_beyond_reason_are_kept_finite(tmp_path):
    path = write_lines(tmp_path / "list.jsonl", [f'{{"key": "a", "wav": "a", "txt": "", "duration": 1{"0" * 400}}}'])
    assert np.isfinite(read_manifest(path)[0].duration)


def test_unreadable_manifests(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.jsonl: No such file"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match=r"none\.tar: No such file"):
        read_manifest(tmp_path / "none.tar")
    with pytest.raises(ManifestError, match=r"empty\.jsonl: no utterances"):
        read_manifest(write_lines(tmp_path / "empty.jsonl", ["", " "]))
    (tmp_path / "latin.jsonl").write_bytes(b'{"key": "a", "wav": "a", "txt": "x"}\n{"key": "\xe4"}')
    with pytest.raises(ManifestError, match=r"latin\.jsonl:2: not UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")


def test_kaldi_folder(tmp_path):
    write_lines(tmp_path / "wav.scp", ["u1 audio/u1.wav", "u2 /somewhere/with spaces.wav"])
    write_lines(tmp_path / "text", ["u2", "u1 hello   world "])
    write_lines(tmp_path / "utt2spk", ["u1 bob", "u2 eve"])
    assert read_manifest(tmp_path) == [
        Utterance(key="u1", wav=str(tmp_path / "audio/u1.wav"), txt="hello   world", speaker="bob"),
        Utterance(key="u2", wav="/somewhere/with spaces.wav", txt="", speaker="eve"),
    ]


def test_kaldi_segments(tmp_path):
    soundfile.write(tmp_path / "r.wav", noise(3.0), 16000, subtype="FLOAT")
    write_lines(tmp_path / "wav.scp", ["rec r.wav"])
    write_lines(tmp_path / "segments", ["u1 rec 0.5 1.25", "u2 rec 2 -1"])
    write_lines(tmp_path / "text", ["u1 one", "u2 two"])
    first, second = read_manifest(tmp_path)
    assert (first.key, first.start, first.end, first.txt) == ("u1", 0.5, 1.25, "one")
    np.testing.assert_array_equal(load_utterance(first), noise(3.0)[8000:20000])
    np.testing.assert_array_equal(load_utterance(second), noise(3.0)[32000:])
    assert [utterance_duration(first), utterance_duration(second)] == [0.75, 1.0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav.scp": ["u a.wav"]}, "text: No such file"),
        ({"text": ["u a"]}, r"wav\.scp: No such file"),
        ({"wav.scp": ["u sox a.wav - |"], "text": ["u a"]}, r"wav\.scp:1: commands in wav.scp are not run"),
        ({"wav.scp": ["u"], "text": ["u a"]}, r"wav\.scp:1: no path"),
        ({"wav.scp": ["u a.wav", "u b.wav"], "text": ["u a"]}, r"wav\.scp:2: key 'u' was already used at .*wav\.scp:1"),
        ({"wav.scp": ["u a.wav", "v b.wav"], "text": ["u a"]}, r"wav\.scp:2: 'v' has no line in .*text"),
        ({"wav.scp": ["u a.wav"], "text": ["u a", "v b"]}, r"text:2: there is no audio for 'v'"),
        ({"wav.scp": ["r a.wav"], "text": ["u a"], "segments": ["u r 0"]}, r"segments:1: expected 'key recording"),
        ({"wav.scp": ["r a.wav"], "text": ["u a"], "segments": ["u r 0 x"]}, r"segments:1: expected 'key recording"),
        ({"wav.scp": ["r a.wav"], "text": ["u a"], "segments": ["u q 0 1"]}, r"segments:1: recording 'q' is not in"),
        ({"wav.scp": ["r a.wav"], "text": ["u a"], "segments": ["u r 2 1"]}, r"segments:1: ends at 1.0 s, before"),
        ({"wav.scp": ["r a.wav"], "text": ["u a"], "segments": ["u r nan 1"]}, r"segments:1: 'start' must be a number"),
    ],
)
def test_a_bad_kaldi_folder(tmp_path, files, message):
    for name, lines in files.items():
        write_lines(tmp_path / name, lines)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path)


def test_shards_keep_audio_on_disk(tmp_path):
    (tmp_path / "shards").mkdir()
    contents = {f"k{i}": audio_bytes(0.2 + 0.1 * i, seed=i, container=c) for i, c in enumerate(["WAV", "FLAC", "OGG"])}
    make_shard(tmp_path / "shards/0.tar", [("k0.txt", b"null\n"), ("k0.wav", contents["k0"])])
    make_shard(
        tmp_path / "shards/1.tar",
        [("k1.txt", b""), ("k1.flac", contents["k1"]), ("k2.ogg", contents["k2"]), ("k2.txt", b"zwei")],
    )
    utterances = read_manifest(write_lines(tmp_path / "shards.list", ["shards/0.tar", "shards/1.tar"]))
    assert [(utterance.key, utterance.txt) for utterance in utterances] == [("k0", "null"), ("k1", ""), ("k2", "zwei")]
    for utterance in utterances:
        np.testing.assert_array_equal(load_utterance(utterance), load_audio(contents[utterance.key]))
        assert utterance_duration(utterance) == pytest.approx(len(load_utterance(utterance)) / 16000)
    assert read_manifest(tmp_path / "shards/1.tar") == utterances[1:]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.txt", b"x"), ("b.wav", b"y")], "'a' has no audio"),
        ([("a.wav", b"y")], r"'a' has no transcript \(.txt\)"),
        ([("a.txt", b"\xff"), ("a.wav", b"y")], r"a\.txt: not UTF-8"),
        (
            [("a.txt", b"x"), ("a.wav", b"y"), ("b.md", b""), ("a.txt", b"x"), ("a.wav", b"y")],
            "key 'a' was already used",
        ),
        ([("readme.md", b"x")], "no utterances"),
    ],
)
def test_a_bad_shard(tmp_path, members, message):
    with pytest.raises(ManifestError, match=rf"s\.tar: .*{message}"):
        read_manifest(make_shard(tmp_path / "s.tar", members))


def test_sizes_that_a_shard_only_claims_take_no_memory(tmp_path):
    """A sparse member of 8 GiB, a transcript of 2 MiB, a list that says that an utterance has 8 TiB."""
    claimed = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(8 << 30)}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("a.txt", b"x"), ("a.wav", b"1\n0\n1\n".ljust(512, b"\0") + b"y")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = {**claimed, "GNU.sparse.name": name} if name == "a.wav" else {}
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ManifestError, match=r"sparse\.tar: a\.wav: sparse files are not supported"):
        read_manifest(tmp_path / "sparse.tar")
    make_shard(tmp_path / "long.tar", [("a.txt", b"x" * (2 << 20)), ("a.wav", b"y")])
    with pytest.raises(ManifestError, match=r"long\.tar: a\.txt: has 2097152 bytes, more than the limit of 1048576"):
        read_manifest(tmp_path / "long.tar")
    (utterance,) = read_manifest(make_shard(tmp_path / "s.tar", [("a.txt", b"x"), ("a.wav", audio_bytes(1.0))]))
    with pytest.raises(AudioError, match=r"s\.tar: a: truncated"):
        load_utterance(replace(utterance, byte_range=(512, 8 << 40)))


def test_damaged_and_missing_shards(tmp_path):
    path = make_shard(tmp_path / "s.tar", [("a.txt", b"x"), ("a.wav", audio_bytes(1.0))])
    content = path.read_bytes()
    utterances = read_manifest(path)
    path.write_bytes(content[:20000])
    with pytest.raises(ManifestError, match=r"s\.tar: not an uncompressed tar, or damaged"):
        read_manifest(path)
    with pytest.raises(AudioError, match=r"s\.tar: a: truncated"):
        load_utterance(utterances[0])
    path.unlink()
    with pytest.raises(AudioError, match=r"s\.tar: a: No such file"):
        load_utterance(utterances[0])
    with pytest.raises(ManifestError, match=r"shards\.list:1: neither JSON nor the path of an existing shard: s\.tar"):
        read_manifest(write_lines(tmp_path / "shards.list", ["s.tar"]))
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    with pytest.raises(ManifestError, match=r"packed\.tar: not an uncompressed tar"):
        read_manifest(tmp_path / "packed.tar")


def test_several_manifests(tmp_path):
    first = write_lines(tmp_path / "1.jsonl", [{**GOOD, "key": "a"}, {**GOOD, "key": "b"}])
    second = write_lines(tmp_path / "2.jsonl", [{**GOOD, "key": "c"}, {**GOOD, "key": "b"}])
    assert read_manifests([first]) == read_manifest(first)
    with pytest.raises(ManifestError, match=r"2\.jsonl: key 'b' was already used in .*1\.jsonl"):
        read_manifests([first, second])
