"""Recognise recordings with sherpa-onnx in a separate process, because it exits if metadata are missing.

Standard input: {"streaming": bool, "model", "tokens", "feature_dim", "recordings": [paths of float32 samples]}.
Standard output: for each recording its text and tokens, as JSON.
"""

import json
import sys
from typing import Any

import numpy as np
import sherpa_onnx


def listen(job: dict[str, Any]) -> list[dict[str, Any]]:
    kind = sherpa_onnx.OnlineRecognizer if job["streaming"] else sherpa_onnx.OfflineRecognizer
    recognizer = kind.from_wenet_ctc(
        model=job["model"], tokens=job["tokens"], num_threads=1, feature_dim=job["feature_dim"]
    )
    found = []
    for path in job["recordings"]:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, np.fromfile(path, np.float32))
        if job["streaming"]:
            stream.input_finished()
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
            found.append({"text": recognizer.get_result(stream), "tokens": recognizer.tokens(stream)})
        else:
            recognizer.decode_stream(stream)
            found.append({"text": stream.result.text, "tokens": stream.result.tokens})
    return found


if __name__ == "__main__":
    print(json.dumps(listen(json.load(sys.stdin))))
