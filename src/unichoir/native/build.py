"""Build the library of kernels beside this file.

    python -m unichoir.native.build

`hatch_build.py` runs this at install. It needs a C++17 compiler: $CXX, c++, g++ or clang++.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "kernels.bin"
COMPILERS = ("c++", "g++", "clang++")
OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden")
MATHEMATICS = ("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
"""Options without which compilers don't vectorise the loops. Sums of floats keep their order."""
X86 = {
    "avx2": ("-mavx2", "-mfma"),
    "avx_vnni": ("-mavx2", "-mfma", "-mavxvnni"),
    "avx512_vnni": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mprefer-vector-width=512"),
}
ARM = {"neon": ("-march=armv8.2-a+dotprod",)}
VERSIONS: Mapping[str, Mapping[str, Sequence[str]]] = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}
"""The versions of `kernels.cpp` for each machine, with their options."""


class BuildError(Exception):
    """The library can't be built; the message says why."""


def build(library: Path = LIBRARY) -> list[str]:
    """Build the library and return its versions. Raises BuildError; a library that is there is then left as it is."""
    versions = VERSIONS.get(platform.machine())
    if versions is None or sys.platform == "win32":
        raise BuildError(f"there are no kernels for {platform.machine()} on {sys.platform}")
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="unichoir-") as temporary:
        folder = Path(temporary)

        def build_version(name: str) -> Path | None:
            defined = [f"-DUNICHOIR_{name.upper()}", f"-DUNICHOIR_VERSION={name}", f'-DUNICHOIR_NAME="{name}"']
            try:
                return compile_file(
                    compiler, "kernels.cpp", folder / f"{name}.o", *MATHEMATICS, *versions[name], *defined
                )
            except BuildError:  # a compiler that doesn't know these instructions yet
                return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            operators = pool.submit(compile_file, compiler, "operators.cpp", folder / "operators.o")
            objects = dict(zip(versions, pool.map(build_version, versions), strict=True))
        built = [name for name, path in objects.items() if path]
        if not built:
            raise BuildError(f"{compiler} doesn't know the instructions {', '.join(versions)}")
        choice = compile_file(
            compiler, "versions.cpp", folder / "versions.o", *(f"-DUNICHOIR_HAS_{name.upper()}" for name in built)
        )
        linked = folder / library.name
        parts = [operators.result(), choice, *filter(None, objects.values())]
        _run([compiler, "-shared", *map(str, parts), "-o", str(linked)])
        # Not overwritten: a process may use the old one.
        fresh = library.with_name(f".{library.name}.{os.getpid()}")
        shutil.copy(linked, fresh)
        os.replace(fresh, library)
    return built


def find_compiler() -> str:
    """Return the C++ compiler. Raises BuildError if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    for name in names:
        if found := shutil.which(name):
            return found
    raise BuildError(f"there is no C++ compiler ({', '.join(names)})")


def compile_file(compiler: str, source: str, target: Path, *options: str) -> Path:
    """Compile a file of this folder to the object `target`; return it. Raises BuildError."""
    _run([compiler, *OPTIONS, *options, "-c", str(FOLDER / source), "-o", str(target)])
    return target


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise BuildError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    try:
        print(f"{LIBRARY}: {', '.join(build())}")
    except BuildError as error:
        sys.exit(f"error: {error}")
