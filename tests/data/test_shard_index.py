import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.data.corpora import json_lines, make_utterances, members

from unichoir.data import storage
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.data.shard_index import index_shards, list_tars
from unichoir.errors import ConfigError, ManifestError


def wenets_shards(folder, count=3):
    """Tars in the form of WeNet's tool, and their list."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = make_utterances(folder.parent / "audio", 2 * count)
    for number in range(count):
        with tarfile.open(folder / f"shard_{number:03d}.tar", "w") as archive:
            for utterance in utterances[2 * number : 2 * number + 2]:
                for suffix, content in (("txt", utterance.txt.encode()), ("wav", Path(utterance.wav).read_bytes())):
                    member = tarfile.TarInfo(f"{utterance.key}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    tars = sorted(folder.glob("*.tar"))
    (folder / "data.list").write_text("".join(f"{path}\n" for path in tars))
    return folder / "data.list"


def check_copies(copies, utterances):
    assert [(copy.key, copy.txt) for copy in copies] == [(utterance.key, utterance.txt) for utterance in utterances]
    for copy, utterance in zip(copies, utterances, strict=True):
        assert copy.duration == pytest.approx(soundfile.info(utterance.wav).duration)
        np.testing.assert_array_equal(load_utterance(copy), load_utterance(utterance))


@pytest.mark.parametrize("workers", [1, 2])
def test_indexes_of_tars_that_are_there(tmp_path, workers):
    tars = list_tars([wenets_shards(tmp_path / "wenet")])
    report = index_shards(tars, tmp_path / "out", workers=workers)
    assert (report.shards, report.utterances, report.skipped) == (3, 6, {})
    assert report.bytes == sum(path.stat().st_size for path in (tmp_path / "wenet").glob("*.tar"))
    assert [entry["shard"] for entry in json_lines(tmp_path / "out/shards.jsonl")] == tars
    check_copies(read_manifest(tmp_path / "out"), make_utterances(tmp_path / "audio", 6))
    assert index_shards(tars, tmp_path / "out") == replace(report, kept=3)
    with pytest.raises(ConfigError, match="out: was started with other utterances"):
        index_shards(tars[:2], tmp_path / "out")


def test_indexes_beside_their_tars_move_with_them(tmp_path):
    index_shards(list_tars([wenets_shards(tmp_path / "wenet")]), tmp_path / "wenet")
    shutil.move(tmp_path / "wenet", tmp_path / "moved")
    check_copies(read_manifest(tmp_path / "moved"), make_utterances(tmp_path / "audio", 6))


def test_indexes_of_tars_on_a_web_server(web, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 4096)
    wenets_shards(web.folder)
    (web.folder / "data.list").write_text("".join(f"{path.name}\n" for path in sorted(web.folder.glob("*.tar"))))
    sizes = {f"/{path.name}": path.stat().st_size for path in web.folder.glob("*.tar")}
    report = index_shards(list_tars([f"{web.url}/data.list"]), tmp_path / "out")
    assert report.bytes == sum(sizes.values())
    sent = {path: sum(size for name, _, size in web.requests if name == path) for path in sizes}
    # Once, but for the padding at the end.
    assert all(sizes[path] <= sent[path] <= sizes[path] + tarfile.RECORDSIZE + tarfile.BLOCKSIZE for path in sizes)
    copies = read_manifest(tmp_path / "out")
    assert copies[0].wav == f"{web.url}/shard_000.tar"
    check_copies(copies, make_utterances(web.folder.parent / "audio", 6))


def test_bad_tars_and_members_are_named_and_the_rest_is_indexed(tmp_path):
    wenets_shards(tmp_path / "wenet", 4)
    first, second, third, fourth = sorted((tmp_path / "wenet").glob("*.tar"))
    pairs = members(first)
    with tarfile.open(first, "w") as archive:
        for name, content in [*pairs, ("odd.txt", b"x"), ("bad.txt", b"x"), ("bad.wav", b"noise")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = second.read_bytes()
    second.write_bytes(whole[:3000])
    third.unlink()
    out = tmp_path / "out"
    report = index_shards([str(path) for path in (first, second, third, fourth)], out)
    assert list(report.skipped) == ["odd", "bad", str(second), str(third)]
    assert "'odd' has no audio" in report.skipped["odd"]
    assert "damaged" in report.skipped[str(second)]
    assert "No such file" in report.skipped[str(third)]
    assert (report.shards, report.utterances) == (2, 4)
    second.write_bytes(whole)
    again = index_shards([str(path) for path in (first, second, third, fourth)], out)
    assert (again.shards, again.kept, again.utterances) == (3, 2, 6)
    assert list(again.skipped) == ["odd", "bad", str(third)]


def test_lists_of_tars(tmp_path):
    data_list = wenets_shards(tmp_path / "wenet")
    tars = sorted(map(str, (tmp_path / "wenet").glob("*.tar")))
    assert list_tars([data_list]) == list_tars(tars) == tars
    with pytest.raises(ManifestError, match=r"data\.list:1: .*shard_000\.tar was already named at .*shard_000\.tar"):
        list_tars([tars[0], data_list])
    with pytest.raises(ManifestError, match=r"none\.list: No such file"):
        list_tars([tmp_path / "none.list"])
