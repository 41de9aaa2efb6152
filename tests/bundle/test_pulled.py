"""Names of pulled models and their places in the cache."""

from pathlib import Path

import pytest

from unichoir.bundle.published import PUBLISHED, is_published, split_pinned
from unichoir.bundle.pulled import (
    Record,
    cache_folder,
    checkpoint_of,
    find_checkpoint,
    find_pulled,
    model_folder,
    pulled_models,
)
from unichoir.errors import CheckpointError

DIGEST = "0123456789abcdef" * 4


def put(name: str, sha256: str = "") -> Path:
    """Put a model without files into the cache."""
    folder = model_folder(name)
    (folder / "checkpoint").mkdir(parents=True)
    Record(name, "somewhere", sha256).write(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNICHOIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("UNICHOIR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache/unichoir"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert cache_folder() == tmp_path / ".cache/unichoir"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/unichoir")
    monkeypatch.setenv("UNICHOIR_CACHE", "~/models")
    assert cache_folder() == tmp_path / "models"


def test_the_names_that_are_published() -> None:
    assert list(PUBLISHED) == [
        *("wenet/aishell", "wenet/aishell2", "wenet/gigaspeech", "wenet/librispeech"),
        *("wenet/multi_cn", "wenet/wenetspeech"),
    ]
    assert [model.archive for model in PUBLISHED.values()] == [
        "aishell_u2pp_conformer_exp.tar.gz",
        "aishell2_u2pp_conformer_exp.tar.gz",
        "gigaspeech_u2pp_conformer_exp.tar.gz",
        "librispeech_u2pp_conformer_exp.tar.gz",
        "multi_cn_unified_conformer_exp.tar.gz",
        "wenetspeech_u2pp_conformer_exp.tar.gz",
    ]
    assert PUBLISHED["wenet/librispeech"].scores == "WER % test-clean 3.32 / 3.80, test-other 8.67 / 10.38"
    assert PUBLISHED["wenet/aishell"].scores == "CER % test 4.63 / 5.05"
    assert split_pinned(f"wenet/aishell@{DIGEST}") == ("wenet/aishell", DIGEST)
    assert is_published(f"wenet/aishell@{DIGEST}")
    for name in ("wenet/aishell@main", "wenet/aishell3", "aishell", "wenet/aishell/", f"wenet/x@{DIGEST}"):
        assert not is_published(name)


def test_a_name_finds_its_folder(cache: Path) -> None:
    assert pulled_models() == {}
    assert find_pulled("wenet/aishell") is None
    names = ["local/exp", "org/name", "org/name@refs/pr/1", "wenet/aishell"]
    folders = {name: put(name, DIGEST) for name in reversed(names)}
    assert pulled_models() == folders
    assert list(pulled_models()) == names
    for name, folder in folders.items():
        assert find_pulled(name) == folder
        assert folder.is_relative_to(cache)
        assert find_checkpoint(name) == folder / "checkpoint"
    assert find_pulled(f"wenet/aishell@{DIGEST}") == folders["wenet/aishell"]
    assert find_pulled(f"wenet/aishell@{DIGEST[::-1]}") is None
    assert find_pulled("org/name@v1") is None

    (Path("wenet") / "aishell").mkdir(parents=True)
    assert find_pulled("wenet/aishell") is None, "a folder of that name counts first"
    assert find_checkpoint("wenet/aishell") == Path("wenet/aishell")


def test_a_moved_cache_keeps_its_models(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("wenet/aishell")
    moved = cache.rename(cache.with_name("elsewhere"))
    monkeypatch.setenv("UNICHOIR_CACHE", str(moved))
    assert find_pulled("wenet/aishell") == moved / "models/wenet/aishell"


def test_a_checkpoint_must_be_pulled_before_training(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"wenet/librispeech: not in the cache: run `unichoir pull wenet/libri"):
        find_checkpoint("wenet/librispeech")
    plain = cache.parent / "plain"
    (plain / "checkpoint").mkdir(parents=True)
    assert checkpoint_of(plain) == plain, "not a pulled model"


def test_a_damaged_record_says_what_to_do(cache: Path) -> None:
    folder = put("org/name")
    (folder / "pulled.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"pulled\.json: cannot be read .* with --force"):
        Record.read(folder)
