"""A directory takes the place of another by renames: the old one is deleted only when the new one is there."""

import os
import shutil
from pathlib import Path


def replace_directory(new: Path, directory: Path) -> None:
    """Put `new`, in the same parent, in the place of `directory`, which may be missing.

    Should the process be killed in between, `.NAME.old` is the old one, and the next call begins by putting it back.
    """
    old = directory.with_name(f".{directory.name}.old")
    restore_directory(directory)
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(new, directory)
    shutil.rmtree(old, ignore_errors=True)


def restore_directory(directory: Path) -> None:
    """Put the old directory back if a process was killed before the new one was in its place."""
    old = directory.with_name(f".{directory.name}.old")
    if old.is_dir() and not directory.exists():
        os.replace(old, directory)
