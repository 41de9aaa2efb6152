import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
from tests.data.conftest import upload

from unichoir.data.features import FeatureReader
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.data.shards import Shard, is_shard_list, read_shard, read_shard_list
from unichoir.data.utterance import Utterance
from unichoir.errors import AudioError, ManifestError

KEYS = ("a", "b", "ключ")


def noise(seed):
    return (3000 * np.random.default_rng(seed).standard_normal(4000 + 100 * seed)).astype(np.int16)


def lines(path, *entries):
    path.write_text("".join(entry + "\n" if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def corpus(tmp_path):
    """Two shards written with tarfile and json alone: three utterances, then one."""
    folder = tmp_path / "web" / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number, keys in enumerate([KEYS, ("d",)]):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for key in keys:
                audio = io.BytesIO()
                soundfile.write(audio, noise(len(key) + number), 16000, format="FLAC")
                for name, content in ((f"{key}.txt", b"TEXT OF " + key.encode()), (f"{key}.flac", audio.getvalue())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        with tarfile.open(folder / f"{number}.tar") as archive:
            audio = [member for member in archive if member.name.endswith(".flac")]
        index = [
            {
                "key": member.name[:-5],
                "offset": member.offset_data,
                "size": member.size,
                "txt": f"TEXT OF {member.name[:-5]}",
                "duration": 0.25,
                "speaker": f"s{number}",
            }
            for member in audio
        ]
        lines(folder / f"{number}.jsonl", *index)
        listed.append(
            {"shard": f"{number}.tar", "index": f"{number}.jsonl", "utterances": len(keys), "seconds": 0.25 * len(keys)}
        )
    lines(folder / "shards.jsonl", *listed)
    return folder


def test_a_corpus_is_read_from_its_indexes(corpus):
    for tar in corpus.glob("*.tar"):
        tar.rename(tar.with_suffix(".away"))  # nothing of audio is touched
    shards = read_shard_list(corpus)
    assert shards == read_shard_list(corpus / "shards.jsonl") == read_shard_list(str(corpus))
    assert [(shard.name, shard.location, shard.utterances, shard.seconds) for shard in shards] == [
        ("0.tar", str(corpus / "0.tar"), 3, 0.75),
        ("1.tar", str(corpus / "1.tar"), 1, 0.25),
    ]
    (only,) = read_shard(shards[1])
    assert (only.key, only.wav, only.txt, only.speaker, only.lang) == ("d", shards[1].location, "TEXT OF d", "s1", "")
    assert only.duration == 0.25
    assert read_manifest(corpus) == read_manifest(corpus / "shards.jsonl") == [*read_shard(shards[0]), only]
    with pytest.raises(AudioError, match=r"1\.tar: d: No such file"):
        load_utterance(only)


def test_what_is_a_list_of_shards(corpus, tmp_path):
    lines(tmp_path / "list.jsonl", "{}")
    for location, wanted in [
        (corpus, True),
        (str(corpus), True),
        ("s3://bucket/x/train-shards.jsonl", True),
        (tmp_path, False),
        (tmp_path / "list.jsonl", False),
        (corpus / "0.tar", False),
        (tmp_path / "none", False),
        ("https://nowhere.invalid/list.jsonl", False),
    ]:
        assert is_shard_list(location) is wanted


def check_audio(utterances):
    for utterance, seed in zip(utterances, (1, 1, 4, 2), strict=True):
        np.testing.assert_array_equal(load_utterance(utterance), noise(seed).astype(np.float32) / 32768)


def test_local_audio(corpus):
    check_audio(read_manifest(corpus))


def test_a_web_server(web, corpus):
    for location in (f"{web.url}/corpus", f"{web.url}/corpus/shards.jsonl"):
        utterances = read_manifest(location)
        assert [utterance.key for utterance in utterances] == [*KEYS, "d"]
    web.requests.clear()
    check_audio(utterances)
    wanted = [(utterance.wav, utterance.byte_range) for utterance in utterances]
    assert web.requests == [
        (wav.removeprefix(web.url), f"bytes={offset}-{offset + size - 1}", size) for wav, (offset, size) in wanted
    ]


def test_an_object_store(object_store, corpus):
    upload(corpus, f"{object_store}/corpus")
    utterances = read_manifest(f"{object_store}/corpus")
    assert utterances[0].wav == f"{object_store}/corpus/0.tar"
    check_audio(utterances)
    assert read_manifest(f"{object_store}/corpus/shards.jsonl") == utterances


def test_one_bad_utterance_or_tar_leaves_the_others(web, corpus):
    utterances = read_manifest(f"{web.url}/corpus")
    content = (corpus / "0.tar").read_bytes()
    offset, size = utterances[1].byte_range
    (corpus / "0.tar").write_bytes(content[:offset] + bytes(size) + content[offset + size :])
    with pytest.raises(AudioError, match=r"corpus/0\.tar: b: cannot be decoded"):
        load_utterance(utterances[1])
    (corpus / "0.tar").write_bytes(content[: offset + 100])
    with pytest.raises(AudioError, match=rf"corpus/0\.tar: b: truncated: {size - 100} bytes are missing"):
        load_utterance(utterances[1])
    with pytest.raises(AudioError, match=r"corpus/0\.tar: ключ: truncated"):
        load_utterance(utterances[2])
    np.testing.assert_array_equal(load_utterance(utterances[0]), noise(1).astype(np.float32) / 32768)
    (corpus / "1.tar").unlink()
    with pytest.raises(AudioError, match=r"corpus/1\.tar: d: No such file"):
        load_utterance(utterances[3])


def test_features_of_urls_are_cached_by_their_place(web, corpus, tmp_path):
    reader = FeatureReader(cache_dir=tmp_path / "cache")
    utterances = read_manifest(f"{web.url}/corpus")
    feats = [reader.features(utterance) for utterance in utterances]
    web.requests.clear()
    for utterance, computed in zip(utterances, feats, strict=True):
        np.testing.assert_array_equal(reader.features(utterance), computed)
    assert not web.requests
    shutil.copytree(corpus, web.folder / "copy")
    for utterance in read_manifest(f"{web.url}/copy"):  # the same ranges of another URL
        web.requests.clear()
        reader.features(utterance)
        assert len(web.requests) == 1
    local = [FeatureReader().features(utterance) for utterance in read_manifest(corpus)]
    for computed, wanted in zip(feats, local, strict=True):
        np.testing.assert_array_equal(computed, wanted)


GOOD = {"shard": "0.tar", "index": "0.jsonl", "utterances": 3, "seconds": 1.5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"shard": "0.tar", ', "not JSON"),
        ("7", "expected a JSON object"),
        ({**GOOD, "version": 2}, "format version 2; this release reads version 1"),
        ({**GOOD, "shard": 5}, "'shard' must be text"),
        ({**GOOD, "shard": ""}, "must not be empty"),
        ({**GOOD, "shard": "first.tar"}, r"shard 'first.tar' was already listed at .*shards\.jsonl:1"),
        ({"shard": "0.tar", "utterances": 3, "seconds": 1.5}, "missing 'index'"),
        ({**GOOD, "utterances": 0}, "'utterances' must be a whole number of at least 1, found 0"),
        ({**GOOD, "utterances": 1.5}, "'utterances' must be a whole number"),
        ({**GOOD, "utterances": True}, "'utterances' must be a whole number"),
        ({**GOOD, "seconds": -1}, "'seconds' must be a number"),
    ],
)
def test_a_bad_list(tmp_path, line, message):
    path = lines(tmp_path / "shards.jsonl", {**GOOD, "shard": "first.tar"}, "", line)
    with pytest.raises(ManifestError, match=rf"shards\.jsonl:3: .*{message}"):
        read_shard_list(path)
    with pytest.raises(ManifestError, match=r"shards\.jsonl:3: "):
        read_manifest(tmp_path)


def test_a_list_that_cannot_be_read(tmp_path, web):
    with pytest.raises(ManifestError, match=r"none/shards\.jsonl: No such file"):
        read_shard_list(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"http://.*/none/shards\.jsonl: No such file"):
        read_shard_list(f"{web.url}/none")
    with pytest.raises(ManifestError, match=r"shards\.jsonl: no shards"):
        read_shard_list(lines(tmp_path / "shards.jsonl"))
    web.failures = [403]
    with pytest.raises(ManifestError, match=r"http://.*/none: the server answers 403"):
        read_manifest(f"{web.url}/none")


ENTRY = {"key": "a", "offset": 512, "size": 10, "txt": "x", "duration": 1.5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a", "off', r"0\.jsonl:2: not JSON"),
        ({**ENTRY, "key": "first"}, r"0\.jsonl:2: key 'first' was already used at .*0\.jsonl:1"),
        ({**ENTRY, "key": ""}, r"0\.jsonl:2: 'key' must not be empty"),
        ({**ENTRY, "offset": -1}, r"0\.jsonl:2: 'offset' must be a whole number of at least 0"),
        ({**ENTRY, "offset": "512"}, r"0\.jsonl:2: 'offset' must be a whole number"),
        ({**ENTRY, "size": 0}, r"0\.jsonl:2: 'size' must be a whole number of at least 1"),
        ({**ENTRY, "duration": "long"}, r"0\.jsonl:2: 'duration' must be a number"),
        ({**ENTRY, "txt": None}, r"0\.jsonl:2: 'txt' must be text"),
        ({name: ENTRY[name] for name in ENTRY if name != "size"}, r"0\.jsonl:2: missing 'size'"),
        ("", r"0\.jsonl: 1 utterances, but the list of shards has 2"),
    ],
)
def test_a_broken_index(tmp_path, line, message):
    index = lines(tmp_path / "0.jsonl", {**ENTRY, "key": "first"}, line)
    shard = Shard(name="0.tar", location="0.tar", index=str(index), utterances=2, seconds=3.0)
    with pytest.raises(ManifestError, match=message):
        read_shard(shard)
    index.unlink()
    with pytest.raises(ManifestError, match=r"0\.jsonl: No such file"):
        read_shard(shard)


def test_a_key_in_two_shards(corpus):
    index = corpus / "1.jsonl"
    index.write_text(index.read_text().replace('"d"', '"a"'))
    with pytest.raises(ManifestError, match=r"1\.jsonl: a: key 'a' was already used at .*0\.jsonl: a"):
        read_manifest(corpus)


def test_a_manifest_on_a_web_server(web):
    (web.folder / "lists").mkdir()
    (web.folder / "audio").mkdir()
    soundfile.write(web.folder / "audio/a b#1%.wav", noise(1), 16000)
    lines(web.folder / "lists/list.jsonl", {"key": "a", "wav": "../audio/a b#1%.wav", "txt": "x", "start": 0.125})
    (utterance,) = read_manifest(f"{web.url}/lists/list.jsonl")
    assert utterance == Utterance(key="a", wav=f"{web.url}/audio/a%20b%231%25.wav", txt="x", start=0.125)
    np.testing.assert_array_equal(load_utterance(utterance), noise(1)[2000:].astype(np.float32) / 32768)


def test_wenets_shards_on_a_web_server(web, corpus):
    (web.folder / "data.list").write_text(f"corpus/0.tar\n{web.url}/corpus/1.tar\n")
    utterances = read_manifest(f"{web.url}/data.list")
    assert [(utterance.key, utterance.txt) for utterance in utterances] == [
        (key, f"TEXT OF {key}") for key in (*KEYS, "d")
    ]
    assert [utterance.byte_range for utterance in utterances] == [
        utterance.byte_range for utterance in read_manifest(corpus)
    ]
    check_audio(utterances)
    with pytest.raises(ManifestError, match=r"http://.*/none\.tar: No such file"):
        read_manifest(f"{web.url}/none.tar")


def test_a_damaged_header_is_not_the_end_of_a_tar(corpus):
    path = corpus / "0.tar"
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        place = archive.getmember("b.txt").offset
    content[place : place + 100] = b"\xff" * 100
    path.write_bytes(content)
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a.txt", "a.flac"]  # what makes the check needed
    with pytest.raises(
        ManifestError, match=rf"0\.tar: not an uncompressed tar, or damaged \(no header at byte {place}"
    ):
        read_manifest(path)
