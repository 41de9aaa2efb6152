"""Speech recognition with one sparse Mixture-of-Experts model, streaming and non-streaming.

import unichoir

model = unichoir.load_model()
print(model.transcribe("recording.flac").text)
for result in model.stream(blocks_of_samples, sample_rate=16000):
    print(result.text)
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unichoir.api import Model, Stream, load_model
    from unichoir.decoding.context import Hotword, read_hotwords
    from unichoir.decoding.hypothesis import Alternative, Reading, StreamResult, Token, Transcript, Word
    from unichoir.decoding.options import DecodingOptions, EndpointRules, StreamingOptions
    from unichoir.decoding.vad_options import VadOptions
    from unichoir.errors import UnichoirError
    from unichoir.text.written import WrittenForm

# ONNX Runtime reports how it is used, unless this is set before it is imported. Processes that are started from here
# inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

__all__ = [
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
]

_HOMES = {
    "Alternative": "unichoir.decoding.hypothesis",
    "DecodingOptions": "unichoir.decoding.options",
    "EndpointRules": "unichoir.decoding.options",
    "Hotword": "unichoir.decoding.context",
    "Model": "unichoir.api",
    "Reading": "unichoir.decoding.hypothesis",
    "Stream": "unichoir.api",
    "StreamResult": "unichoir.decoding.hypothesis",
    "StreamingOptions": "unichoir.decoding.options",
    "Token": "unichoir.decoding.hypothesis",
    "Transcript": "unichoir.decoding.hypothesis",
    "UnichoirError": "unichoir.errors",
    "VadOptions": "unichoir.decoding.vad_options",
    "Word": "unichoir.decoding.hypothesis",
    "WrittenForm": "unichoir.text.written",
    "load_model": "unichoir.api",
    "read_hotwords": "unichoir.decoding.context",
}


def __getattr__(name: str) -> Any:
    # Imported when first used: `import unichoir` stays instant, though the inference engine takes its time.
    if name not in _HOMES:
        raise AttributeError(f"module 'unichoir' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
