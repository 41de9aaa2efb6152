"""Describe the machine for a report; called by `run`, and by `serving.run`."""

import os
import platform
import re
import sys
from datetime import datetime, timezone
from importlib import metadata

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
"""Instruction sets that affect the speed of vector products, by their names in Linux."""

PACKAGES = ("unichoir", "torch", "onnxruntime", "numpy", "uvicorn", "websockets")


def describe_machine(threads: int | None) -> dict[str, str]:
    """Return processor, instruction sets, system, versions, command line and date, by name."""
    names, cores, flags = _processor()
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    return {
        "processor": f"{names}, {cores} cores" + (f", {threads} threads used" if threads else ""),
        "instructions": ", ".join(name for name in INSTRUCTIONS if name in flags) or "unknown",
        "system": platform.platform(),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "command": " ".join(["unichoir", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
    }


def _version(package: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> tuple[str, int, set[str]]:
    """Return the processor's name, number of cores and instruction sets, from /proc on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    called = name[1] if name else platform.processor() or platform.machine()
    return called, os.cpu_count() or 1, set(flags[1].split()) if flags else set()
