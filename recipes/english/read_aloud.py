"""Have Kokoro-82M read digits: python read_aloud.py KOKORO OUT.

KOKORO is a folder with the model in ONNX (model.onnx; inputs: tokens, style, speed) and a file for each voice
(voices/*.bin). `pip install kokoro-onnx` turns words into phonemes. Single digits are cut out as tightly as those of
fsdd; rows of two to six are not. Every second take is a blend of two voices, so there are more speakers than voices,
and every second recording has passed through 8 kHz, as a telephone's has. OUT gets audio/*.flac and train.jsonl. If
you stop it, start it again: what is there stays.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import soxr
from rich.progress import track

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
KOKORO_RATE, RATE, TELEPHONE_RATE = 24000, 16000, 8000


@dataclass(frozen=True)
class Take:
    """One recording to make."""

    key: str
    text: str
    voices: tuple[str, ...]
    share: float
    """Of the first of two voices."""
    speed: float
    telephone: bool
    gain: float
    margins: tuple[float, float]
    """Seconds that stay before and after the speech."""


def plan(voices: list[str], takes: int, rows: int, seed: int) -> Iterator[Take]:
    """What to read: each voice reads each digit `takes` times, and `rows` rows."""
    draw = random.Random(seed)
    for voice in voices:
        texts = [digit for digit in DIGITS for _ in range(takes)]
        texts += [" ".join(draw.choices(DIGITS, k=draw.randint(2, 6))) for _ in range(rows)]
        for number, text in enumerate(texts):
            is_row = " " in text
            yield Take(
                key=f"{voice}-{number:03d}-{text.split()[0]}",
                text=text,
                voices=(voice, draw.choice(voices)) if number % 2 else (voice,),
                share=draw.uniform(0.3, 0.8),
                speed=draw.uniform(0.85, 1.35),
                telephone=draw.random() < 0.5,
                gain=10 ** (draw.uniform(-20, 0) / 20),
                margins=(draw.uniform(0, 0.3 if is_row else 0.04), draw.uniform(0, 0.3 if is_row else 0.04)),
            )


def cut(samples: np.ndarray, margins: tuple[float, float]) -> np.ndarray:
    """Speech alone, (N,) at KOKORO_RATE: 10 ms windows within 38 dB of the loudest, `margins` seconds around them."""
    window = KOKORO_RATE // 100
    power = np.square(samples[: len(samples) // window * window].reshape(-1, window)).mean(1)
    loud = np.flatnonzero(power > power.max() * 10**-3.8)
    begin = loud[0] * window - int(margins[0] * KOKORO_RATE)
    end = (loud[-1] + 1) * window + int(margins[1] * KOKORO_RATE)
    return samples[max(begin, 0) : end]


@cache
def load(kokoro: Path) -> tuple[onnxruntime.InferenceSession, Any]:
    """The model, and what turns words into its tokens; once in each process."""
    from kokoro_onnx.tokenizer import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(kokoro / "model.onnx", options, ["CPUExecutionProvider"]), Tokenizer()


def read(take: Take, kokoro: Path, out: Path) -> dict[str, object]:
    """Make one recording, unless it is there; the row of the manifest."""
    path = out / "audio" / f"{take.key}.flac"
    if not path.exists():
        session, tokenizer = load(kokoro)
        tokens = tokenizer.tokenize(tokenizer.phonemize(take.text.replace(" ", ", "), "en-us"))
        # A voice has a style for each number of phonemes.
        styles = [np.fromfile(kokoro / "voices" / f"{name}.bin", np.float32).reshape(-1, 256) for name in take.voices]
        style = np.average([each[len(tokens)] for each in styles], 0, [take.share, 1 - take.share][: len(styles)])
        inputs = {
            "tokens": [[0, *tokens, 0]],
            "style": style[None].astype(np.float32),
            "speed": np.array([take.speed], np.float32),
        }
        samples = cut(session.run(None, inputs)[0].ravel(), take.margins)
        if take.telephone:
            samples = soxr.resample(soxr.resample(samples, KOKORO_RATE, TELEPHONE_RATE), TELEPHONE_RATE, RATE)
        else:
            samples = soxr.resample(samples, KOKORO_RATE, RATE)
        samples *= 0.9 * take.gain / np.abs(samples).max()
        partial_path = path.with_suffix(".partial")
        soundfile.write(partial_path, samples, RATE, format="FLAC", subtype="PCM_16")
        os.replace(partial_path, path)
    duration = soundfile.info(path).duration
    wav, speaker = f"audio/{path.name}", "+".join(take.voices)
    return {"key": take.key, "wav": wav, "txt": take.text, "speaker": speaker, "duration": duration, "lang": "en"}


def main() -> None:
    """Read as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kokoro", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--takes", type=int, default=3, help="how often each voice reads each digit")
    parser.add_argument("--rows", type=int, default=6, help="how many rows of digits each voice reads")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    out: Path = arguments.out
    (out / "audio").mkdir(parents=True, exist_ok=True)
    voices = sorted(path.stem for path in (arguments.kokoro / "voices").glob("*.bin"))
    if not voices:
        parser.error(f"{arguments.kokoro}/voices: no voices (*.bin)")
    takes = list(plan(voices, arguments.takes, arguments.rows, arguments.seed))
    work = partial(read, kokoro=arguments.kokoro, out=out)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = list(track(pool.map(work, takes, chunksize=4), "reading", total=len(takes)))
    manifest = out / "train.jsonl.partial"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(manifest, out / "train.jsonl")


if __name__ == "__main__":
    main()
