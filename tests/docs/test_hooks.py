"""Links and folders of the documentation: on the site and where a code host shows the pages."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("[dr]*/**/*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


@pytest.fixture
def hooks() -> Any:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Of the pages outside docs/, too, which MkDocs does not see."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in (first or second for first, second in LINK.findall(text)):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"


def test_folders_become_pages(hooks: Any, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for name in ("b.md", "index.md", "a.md", "plot.svg"):
        (tmp_path / "results" / name).touch()
    nav = [{"Start": ["index.md"]}, {"Results": "results/"}]
    assert hooks.with_pages(nav, tmp_path) == [
        {"Start": ["index.md"]},
        {"Results": ["results/index.md", "results/a.md", "results/b.md"]},
    ]


@pytest.mark.parametrize(
    ("link", "repository", "expected"),
    [
        ("[set-up](../../LICENSE)", None, "set-up"),
        ("[set-up](../../LICENSE)", "https://host/unichoir/", "[set-up](https://host/unichoir/blob/main/LICENSE)"),
        ("[a](../../README.md#more)", "https://host/u", "[a](https://host/u/blob/main/README.md#more)"),
        ("[other](../results/cpu.md#all)", "https://host/u", "[other](../results/cpu.md#all)"),
    ],
)
def test_links_that_leave_the_documentation(hooks: Any, link: str, repository: str | None, expected: str) -> None:
    assert hooks.LINK.sub(lambda found: hooks.outside(found, "start/install.md", ROOT, repository), link) == expected


def test_a_link_to_nothing_is_a_warning(hooks: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = hooks.LINK.search("[gone](../../no-such-file.md)")
    assert hooks.outside(found, "start/install.md", ROOT, None) == "gone"
    assert "start/install.md: link to '../../no-such-file.md': no such file" in caplog.text


@pytest.mark.parametrize(
    ("html", "is_refused"),
    [
        ('<script src="https://cdn.example/a.js"></script>', True),
        ('<img alt="" src="//example/a.png">', True),
        ('<link rel="stylesheet" href="https://fonts.example/a.css">', True),
        ('<link rel="stylesheet" href="../assets/main.css">', False),
        ('<link rel="canonical" href="https://host/page/">', False),
        ('<script src="../assets/main.js"></script><a href="https://example">', False),
    ],
)
def test_pages_load_nothing_from_other_hosts(
    hooks: Any, caplog: pytest.LogCaptureFixture, html: str, is_refused: bool
) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    assert hooks.on_post_page(html, page=page) == html
    assert bool(caplog.text) == is_refused
