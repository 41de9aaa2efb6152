"""The public API consists of exactly the names listed here."""

import re
from pathlib import Path

import pytest

import unichoir

PUBLIC = {
    "Alternative",
    "DecodingOptions",
    "EndpointRules",
    "Hotword",
    "Model",
    "Reading",
    "Stream",
    "StreamResult",
    "StreamingOptions",
    "Token",
    "Transcript",
    "UnichoirError",
    "VadOptions",
    "Word",
    "WrittenForm",
    "__version__",
    "load_model",
    "read_hotwords",
}


def test_public_surface() -> None:
    assert set(unichoir.__all__) == PUBLIC == set(dir(unichoir))
    for name in PUBLIC:
        assert getattr(unichoir, name) is not None
        assert getattr(getattr(unichoir, name), "__doc__", None)


def test_nothing_else_is_offered() -> None:
    with pytest.raises(AttributeError, match="nonesuch"):
        unichoir.nonesuch  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_that_of_the_project() -> None:
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    (version,) = re.findall(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert unichoir.__version__ == version
