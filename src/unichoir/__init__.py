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
    from unichoir.errors import UnichoirError
    from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
    from unichoir.recognition.vad_options import VadOptions
    from unichoir.search.hotwords import Hotword, read_hotwords
    from unichoir.text.written import WrittenForm
    from unichoir.transcript.results import Alternative, Reading, StreamResult, Token, Transcript, Word

# ONNX Runtime sends usage reports unless this is set before its import. Child processes inherit it.
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
    "Alternative": "unichoir.transcript.results",
    "DecodingOptions": "unichoir.recognition.options",
    "EndpointRules": "unichoir.recognition.options",
    "Hotword": "unichoir.search.hotwords",
    "Model": "unichoir.api",
    "Reading": "unichoir.transcript.results",
    "Stream": "unichoir.api",
    "StreamResult": "unichoir.transcript.results",
    "StreamingOptions": "unichoir.recognition.options",
    "Token": "unichoir.transcript.results",
    "Transcript": "unichoir.transcript.results",
    "UnichoirError": "unichoir.errors",
    "VadOptions": "unichoir.recognition.vad_options",
    "Word": "unichoir.transcript.results",
    "WrittenForm": "unichoir.text.written",
    "load_model": "unichoir.api",
    "read_hotwords": "unichoir.search.hotwords",
}


def __getattr__(name: str) -> Any:
    # Import on first use, so that `import unichoir` is fast although the inference engine is slow to load.
    if name not in _HOMES:
        raise AttributeError(f"module 'unichoir' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
