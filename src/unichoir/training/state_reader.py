"""Reading a distributed checkpoint without executing code from it.

torch stores the metadata of a checkpoint as a pickle, and a pickle may name any function to call. This reader only
accepts what torch itself writes. Tensors are read with `weights_only`, and other objects are rejected.
"""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from unichoir.errors import CheckpointError

ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "ChunkStorageMetadata"),
        *("TensorProperties", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
DATA_FILE = re.compile(r"__\d+_\d+\.distcp")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in ALLOWED.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise CheckpointError(f"the metadata names {module}.{name}, which checkpoints do not contain")


class StateReader(FileSystemReader):
    """torch's reader for the checkpoint in a folder. Raises CheckpointError for metadata that torch didn't write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the metadata like torch, but only with names on a list."""
        metadata = _Unpickler(io.BytesIO((self._folder / ".metadata").read_bytes())).load()
        if not isinstance(metadata, Metadata):
            raise CheckpointError("the metadata has an unexpected type")
        for each in (metadata.storage_data or {}).values():
            if not DATA_FILE.fullmatch(str(each.relative_path)):
                raise CheckpointError(f"the metadata names the file {each.relative_path}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class TensorPlanner(DefaultLoadPlanner):
    """torch's planner for a checkpoint that only contains tensors: other objects are pickles."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Raise CheckpointError."""
        raise CheckpointError(f"{read_item.dest_index.fqn} is not a tensor")
