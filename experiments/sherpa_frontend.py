"""Compare a checkpoint's errors here and in sherpa-onnx, for docs/results/sherpa-onnx.md.

    python experiments/sherpa_frontend.py CHECKPOINT MANIFEST...

It uses greedy CTC with the features of the model's training, with those of sherpa-onnx, and in sherpa-onnx itself,
which in streaming loses the end of audio without padding. Prints a Markdown table of word error rates in %.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import sherpa_onnx

from unichoir.api import load_recognizer
from unichoir.audio.fbank import FbankConfig
from unichoir.audio.io import Samples, load_audio
from unichoir.data.manifest import read_manifest
from unichoir.export.sherpa import OFFLINE_FILE, SHERPA_FBANK, STREAMING_FILE, TOKENS_FILE, export_sherpa
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.text.wer import ErrorCounts, word_errors

CHUNK, LEFT, RATE = 16, 4, 16000
PADDING = int(0.61 * RATE)


def here(recognizer: Recognizer, fbank: FbankConfig, recordings: list[Samples], chunk_size: int | None) -> list[str]:
    """Return the words of greedy CTC with these features."""
    options = DecodingOptions(
        mode="ctc_greedy_search", chunk_size=chunk_size, num_left_chunks=LEFT if chunk_size else -1
    )
    other = Recognizer(recognizer.backend, recognizer.tokenizer, fbank)
    return [other.recordings.recognize(samples, options).text for samples in recordings]


def offline(directory: Path, recordings: list[Samples]) -> list[str]:
    """Return the words of sherpa-onnx for whole recordings."""
    recognizer = sherpa_onnx.OfflineRecognizer.from_wenet_ctc(
        model=str(directory / OFFLINE_FILE), tokens=str(directory / TOKENS_FILE)
    )
    texts = []
    for samples in recordings:
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, samples)
        recognizer.decode_stream(stream)
        texts.append(stream.result.text)
    return texts


def streaming(directory: Path, recordings: list[Samples], padding: int) -> list[str]:
    """Return the words of sherpa-onnx for streams, with `padding` samples of silence at the end."""
    recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
        model=str(directory / STREAMING_FILE),
        tokens=str(directory / TOKENS_FILE),
        chunk_size=CHUNK,
        num_left_chunks=LEFT,
    )
    texts = []
    for samples in recordings:
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, np.pad(samples, (0, padding)))
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        texts.append(recognizer.get_result(stream))
    return texts


def main(checkpoint: str, *manifests: str) -> None:
    recognizer = load_recognizer(checkpoint)
    own = recognizer.fbank_config
    with tempfile.TemporaryDirectory() as folder:
        directories = {name: Path(folder, name) for name in ("float32", "int8")}
        for name, directory in directories.items():
            export_sherpa(Path(checkpoint), directory, quantize="int8" if name == "int8" else None)
        print("| set | who | features | full | chunk 16, left 4 |\n| --- | --- | --- | ---: | ---: |")
        for manifest in manifests:
            utterances = [each for each in read_manifest(manifest) if each.txt is not None]
            recordings = [load_audio(each.wav, sample_rate=RATE) for each in utterances]

            def rate(texts: list[str], utterances: list = utterances) -> str:  # type: ignore[type-arg]
                pairs = zip(utterances, texts, strict=True)
                errors = sum((word_errors(each.txt, text) for each, text in pairs), ErrorCounts())
                return f"{100 * errors.rate:.2f}"

            rows = {
                "unichoir | its own": [here(recognizer, own, recordings, size) for size in (None, CHUNK)],
                "unichoir | of sherpa-onnx": [
                    here(recognizer, SHERPA_FBANK, recordings, size) for size in (None, CHUNK)
                ],
            }
            for name, directory in directories.items():
                whole = offline(directory, recordings)
                rows[f"sherpa-onnx, {name} | of sherpa-onnx"] = [whole, streaming(directory, recordings, PADDING)]
                rows[f"sherpa-onnx, {name}, unpadded | of sherpa-onnx"] = [whole, streaming(directory, recordings, 0)]
            for row, texts in rows.items():
                print(
                    f"| {Path(manifest).parent.name}/{Path(manifest).stem} | {row} | {' | '.join(map(rate, texts))} |"
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
