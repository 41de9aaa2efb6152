"""The cache of pulled models: model directories by name, each with the checkpoint that it was made from.

The cache is `$UNICHOIR_CACHE`, or `unichoir` in `$XDG_CACHE_HOME` (`~/.cache`). It has no absolute paths in it, so it
can be moved as a whole:

    models/ORG/NAME/              a model directory, int8
    models/ORG/NAME/pulled.json   where it comes from
    models/ORG/NAME/checkpoint/   the checkpoint, float32
    downloads/ORG/NAME/           an archive that isn't complete, its SHA-256 from earlier downloads, a lock
"""

import json
import os
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path

from unichoir.bundle.hub import find_directory, is_on_hub
from unichoir.bundle.published import is_published, split_pinned
from unichoir.bundle.replacing import replace_text
from unichoir.errors import CheckpointError

CACHE_VARIABLE = "UNICHOIR_CACHE"
RECORD_FILE = "pulled.json"
CHECKPOINT = "checkpoint"
"""The folder of the checkpoint in a pulled model."""
LOCAL = "local"
"""The first part of the names of models that were pulled from folders, archives and URLs."""


@dataclass(frozen=True)
class Record:
    """Where a pulled model comes from; sha256: of its archive, "" if there was none."""

    name: str
    source: str
    sha256: str = ""

    def write(self, directory: Path) -> None:
        """Write it into the folder of the model."""
        replace_text(directory / RECORD_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """Read it. Raises CheckpointError for a folder that wasn't pulled."""
        path = directory / RECORD_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{key: str(content[key]) for key in ("name", "source", "sha256")})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}): pull the model again, with --force") from None


def cache_folder() -> Path:
    """Return the folder of the cache, which may be missing."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "unichoir"


def model_folder(name: str) -> Path:
    """Return the folder in the cache for the model with this name."""
    return cache_folder() / "models" / _inner(name)


def download_folder(name: str) -> Path:
    """Return the folder in the cache for downloads of this model."""
    return cache_folder() / "downloads" / _inner(name)


def _inner(name: str) -> Path:
    organisation, _, rest = name.partition("/")
    return Path(organisation) / urllib.parse.quote(rest, safe="@")  # a revision may have slashes


def find_pulled(name: str) -> Path | None:
    """Return the folder of a model in the cache; None if there is none, or it is from another archive than pinned.

    A folder of the same name counts first.
    """
    if not is_on_hub(name):
        return None
    plain, pinned = split_pinned(name) if is_published(name) else (name, None)
    folder = model_folder(plain)
    if not (folder / RECORD_FILE).is_file() or (pinned and Record.read(folder).sha256 != pinned):
        return None
    return folder


def pulled_models() -> dict[str, Path]:
    """Return the folders of the models in the cache by name."""
    found = {}
    for path in sorted(cache_folder().glob(f"models/*/*/{RECORD_FILE}")):
        folder = path.parent
        found[f"{folder.parent.name}/{urllib.parse.unquote(folder.name)}"] = folder
    return found


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint: that of a pulled model, a folder, or a model of the Hugging Face hub.

    Raises CheckpointError for a published model that isn't in the cache, and as `hub.fetch_model` does.
    """
    name = os.fspath(name)
    pulled = find_pulled(name)
    if pulled is None and is_published(name):
        raise CheckpointError(f"{name}: not in the cache: run `unichoir pull {name}` first")
    return checkpoint_of(pulled or find_directory(name))


def checkpoint_of(directory: Path) -> Path:
    """Return the checkpoint in the folder of a pulled model, and any other folder itself."""
    inner = directory / CHECKPOINT
    return inner if (directory / RECORD_FILE).is_file() and inner.is_dir() else directory
