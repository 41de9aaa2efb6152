"""Kernels for int8 layers in C++, as custom operators of ONNX Runtime.

The library is built at install where a C++ compiler is (`hatch_build.py`). Without it, or on a processor that it has no
kernels for, graphs compute the same with ONNX Runtime's own operators.
"""

import ctypes
import os
import warnings
from functools import cache
from pathlib import Path

from unichoir.errors import ConfigError

LIBRARY = Path(__file__).with_name("kernels.bin")  # not .so, which would be a module of Python
ENVIRONMENT_VARIABLE = "UNICHOIR_NATIVE"
"""0: compute without the kernels. The name of a version: use its instructions, not the fastest ones."""


def library() -> Path | None:
    """Return the library to register with ONNX Runtime; None: there is none for this processor, or it is turned off.

    Raises ConfigError if the environment asks for a version that isn't supported here.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if wanted not in ("", "0", "1", *supported_versions()):
        supported = ", ".join(supported_versions()) or "none"
        raise ConfigError(f"{ENVIRONMENT_VARIABLE}: no kernels named '{wanted}' here; supported: {supported}")
    return LIBRARY if wanted != "0" and supported_versions() else None


def version() -> str | None:
    """Return the instructions that new kernels use; None: ONNX Runtime's own operators are used."""
    if library() is None:
        return None
    get_version = ctypes.CDLL(str(LIBRARY)).unichoir_version
    get_version.restype = ctypes.c_char_p
    name: bytes = get_version()
    return name.decode()


@cache
def supported_versions() -> tuple[str, ...]:
    """Return the versions of the kernels that this processor supports, the fastest first; empty without a library."""
    if not LIBRARY.is_file():
        return ()
    try:
        get_names = ctypes.CDLL(str(LIBRARY)).unichoir_supported_versions
    except (OSError, AttributeError) as error:  # built for another system or release
        warnings.warn(f"{LIBRARY}: cannot be loaded ({error}); int8 models are slower", stacklevel=2)
        return ()
    get_names.restype = ctypes.c_char_p
    names: bytes = get_names()
    return tuple(names.decode().split())
