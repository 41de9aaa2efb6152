"""Models of the Hugging Face hub, stored in its cache (https://huggingface.co/docs/huggingface_hub/guides/download)."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from unichoir.bundle.published import WENET_FILES
from unichoir.bundle.replacing import writing
from unichoir.bundle.sums import CARD_FILE, MODEL_FILES, SUMS_FILE
from unichoir.errors import CheckpointError, UnichoirError

_MODEL_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>(?!.*\.\.)\w[\w./-]*))?")
_UNITS_FILE = "units.txt"
_WENET_FILE = "train.yaml"
_UNKNOWN = "it does not exist, or it is private: log in with `hf auth login` or HF_TOKEN"


def find_directory(name: str | os.PathLike[str]) -> Path:
    """Return the folder with this name or, if there is none, the folder of the hub's model with this name.

    Raises CheckpointError and UnichoirError like `fetch_model`.
    """
    name = os.fspath(name)
    return fetch_model(name) if is_on_hub(name) else Path(name)


def is_on_hub(name: str) -> bool:
    """Return whether `find_directory` looks on the hub: the name has the hub's form and isn't a folder."""
    return _MODEL_ID.fullmatch(name) is not None and not os.path.exists(name)


def fetch_model(name: str) -> Path:
    """Return the folder in the cache with the files of a model, after downloading missing files.

    name: `organisation/name` or `organisation/name@revision`; a revision is a branch, a tag or a commit. If the hub
    can't be reached, or mustn't be (`HF_HUB_OFFLINE=1`), the cache is used. Only model files are fetched, and none with
    pickles. Raises CheckpointError, with the reason, if the model isn't available, UnichoirError if huggingface_hub
    isn't installed.
    """
    # Every model has this small file, and few other repositories do, so other repositories aren't downloaded.
    return _fetch(name, _UNITS_FILE, (*MODEL_FILES, SUMS_FILE, CARD_FILE))


def fetch_wenet(name: str) -> Path:
    """Return the folder in the cache with the files of a checkpoint in WeNet's layout, for conversion.

    `final.pt` is a pickle, so nothing but a conversion may ask for it. Otherwise like `fetch_model`.
    """
    return _fetch(name, _WENET_FILE, WENET_FILES)


def _fetch(name: str, marker: str, patterns: Sequence[str]) -> Path:
    """Fetch the files with these patterns from a repository that has the file `marker`."""
    match = _MODEL_ID.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name}: not a name of the Hugging Face hub (organisation/name)")
    from importlib import metadata  # loading a model from a folder needs none of this

    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise UnichoirError(
            f"{name}: no such folder or included model; models of the Hugging Face hub need an extra: "
            "pip install 'unichoir[hub]'"
        ) from None
    where = f"{name} (no such folder or included model, searched on the Hugging Face hub)"
    repo, revision = match["repo"], match["revision"]
    cause: Exception | None = None
    user = {"library_name": "unichoir", "library_version": metadata.version("unichoir")}
    # Patterns would also match in subfolders. A model's files are never in one.
    fetch = partial(snapshot_download, repo, dry_run=False, ignore_patterns=["*/*"], **user)
    try:
        with writing(Path(constants.HF_HUB_CACHE)):
            folder = Path(fetch(revision=revision, allow_patterns=[marker, _WENET_FILE]))
            if (folder / marker).exists():
                # With the commit, the cached files are used without asking the hub again.
                folder = Path(fetch(revision=folder.name, allow_patterns=list(patterns)))
                if marker == _WENET_FILE or not _is_wenet(folder):
                    return folder
        what = "checkpoint of WeNet" if marker == _WENET_FILE else "model of unichoir"
        reason = f"it is not a {what}: it has no {marker}"
        if _is_wenet(folder):
            reason = f"it is a checkpoint of WeNet: convert it once, with `unichoir pull {name}`"
    except errors.GatedRepoError:
        reason = "access must be granted on its page; then log in with `hf auth login` or HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = _UNKNOWN
    except errors.RevisionNotFoundError:
        reason = f"it has no revision '{revision or 'main'}'"
    except errors.LocalEntryNotFoundError as error:
        cause = error
        reason = "the hub cannot be reached, or HF_HUB_OFFLINE is set, and the cache does not hold all of the model"
    except (errors.HFValidationError, OSError) as error:
        unauthorized = isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401
        reason = _UNKNOWN if unauthorized else " ".join(str(error).split())
    raise CheckpointError(f"{where}: {reason}") from cause


def _is_wenet(folder: Path) -> bool:
    """Return whether a folder has WeNet's configuration, and none of ours."""
    own = any((folder / name).exists() for name in ("config.json", "config.yaml"))
    return not own and (folder / _WENET_FILE).exists()


def cached_models() -> dict[str, Path]:
    """Return the folders of the models in the hub's cache by name; empty if huggingface_hub isn't installed.

    The branch `main` has the plain name, others have `@` and a branch, a tag or the commit.
    """
    try:
        from huggingface_hub import errors, scan_cache_dir
    except ModuleNotFoundError:
        return {}
    try:
        repositories = scan_cache_dir().repos
    except errors.CacheNotFound:
        return {}
    found: dict[str, Path] = {}
    for repository in repositories:
        for revision in repository.revisions:
            snapshot = revision.snapshot_path
            if repository.repo_type == "model" and (snapshot / _UNITS_FILE).exists() and not _is_wenet(snapshot):
                name = repository.repo_id
                if "main" not in revision.refs:
                    name += f"@{min(revision.refs, default=revision.commit_hash)}"
                found[name] = snapshot
    return dict(sorted(found.items()))
