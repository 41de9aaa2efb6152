"""MkDocs hooks: folders in the navigation, links that leave docs/; pages load nothing from other hosts."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger

log = get_plugin_logger("hooks")  # with --strict, a warning fails the build

LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<path>\.\./[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
LOADED = re.compile(r"<(?:script|img|iframe|audio|video|source)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*\"|<link\b[^>]*>")
FETCHED_LINK = re.compile(r"rel=\"?(?:stylesheet|icon|preconnect|preload)\b[^>]*href=\"?(?:https?:)?//")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder in the navigation, `name/`, by its pages: `index.md` first, then in alphabetical order."""
    if config.nav is not None:
        config.nav = with_pages(config.nav, Path(config.docs_dir))
    return config


def with_pages(nav: Any, docs: Path) -> Any:
    """Return the navigation, a YAML value, with the pages of its folders."""
    if isinstance(nav, list):
        return [with_pages(each, docs) for each in nav]
    if isinstance(nav, dict):
        return {title: with_pages(each, docs) for title, each in nav.items()}
    if isinstance(nav, str) and nav.endswith("/"):
        pages = sorted((docs / nav).glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
        return [page.relative_to(docs).as_posix() for page in pages]
    return nav


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Rewrite the page's links to files outside docs/, which the site doesn't contain."""
    root = Path(config.docs_dir).parent

    def rewrite(link: re.Match[str]) -> str:
        return outside(link, page.file.src_uri, root, config.repo_url)

    return LINK.sub(rewrite, markdown)


def outside(link: re.Match[str], page: str, root: Path, repository: str | None) -> str:
    """Return what replaces a link: a link to the repository, or its text if no repository is known.

    link: a match of `LINK`; page: its page, relative to docs/; root: the folder that contains docs/; repository: its
    address. Links to pages within docs/ stay as they are.
    """
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link["path"]))
    if target.startswith("docs/"):
        return link[0]
    if not (root / target).exists():
        log.warning(f"{page}: link to '{link['path']}': no such file")
    if not repository:
        return link["text"]
    return f"[{link['text']}]({repository.rstrip('/')}/blob/main/{target}{link['anchor'] or ''})"


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Check that a page works without a network: no script, style, font or picture comes from another host."""
    for found in LOADED.finditer(output):
        if not found[0].startswith("<link") or FETCHED_LINK.search(found[0]):
            log.warning(f"{page.file.src_uri}: loads something from another host: {found[0]}")
    return output
