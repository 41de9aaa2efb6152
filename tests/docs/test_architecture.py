"""The files and folders that the architecture and the notes for contributors name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "unichoir"
NAMED = re.compile(r"`([\w./-]+(?:/|\.(?:py|md|yml|sh)))`")


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_named_files_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").partition("## What was taken from others")[0]
    named = {name for name in NAMED.findall(text) if "/" in name}
    assert len(named) > 10
    places = (ROOT, PACKAGE)
    assert sorted(name for name in named if not any((place / name).exists() for place in places)) == []
