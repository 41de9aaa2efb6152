"""Imports of optional packages, with errors that name the required extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from unichoir.errors import UnichoirError

_TRAIN = {
    *("aiohttp", "filelock", "fsspec", "matplotlib", "onnx", "onnx_ir", "onnxscript"),
    *("pyroomacoustics", "safetensors", "scipy", "tensorboard", "torch", "yaml"),
}
_EXTRA_MODULES = {
    "train": _TRAIN,
    "export": _TRAIN,
    "serve": {"anyio", "fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn", "websockets"},
    "cluster": {"pandas", "pyarrow", "ray"},
}


@contextmanager
def training_extras(who: str) -> Iterator[None]:
    """Wrap imports of packages from the extra `train`: a missing module becomes an UnichoirError that names `who`."""
    with _extra(who, "train"):
        yield


@contextmanager
def export_extras(who: str) -> Iterator[None]:
    """Wrap imports of packages from the extra `export`."""
    with _extra(who, "export"):
        yield


@contextmanager
def serving_extras(who: str) -> Iterator[None]:
    """Wrap imports of packages from the extra `serve`."""
    with _extra(who, "serve"):
        yield


@contextmanager
def cluster_extras(who: str) -> Iterator[None]:
    """Wrap imports of packages from the extra `cluster`."""
    with _extra(who, "cluster"):
        yield


@contextmanager
def _extra(who: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES[extra]:
            raise
        install = f"pip install 'unichoir[{extra}]'"
        raise UnichoirError(f"{who} needs an extra: {install} (no {error.name})") from None
