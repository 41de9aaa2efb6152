"""Read transcripts aloud with flite and espeak-ng: python synthesize.py OUT MANIFEST... [--letters N] [--seed S].

Every different transcript of the manifests, and N made-up rows of letters and digits, are spoken once, by a voice, at a
speed and a pitch drawn at random, the same ones in every run. OUT receives the recordings and `train.jsonl`. Needs the
programs flite and espeak-ng (Debian packages of these names).
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import soundfile
from rich.progress import track

from unichoir.data.manifest import read_manifest

FLITE_VOICES = ("slt", "rms", "awb", "kal16")
ESPEAK_ACCENTS = ("en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")
ESPEAK_VARIANTS = (*(f"m{n}" for n in range(1, 9)), *(f"f{n}" for n in range(1, 6)), "steph", "linda", "rob")
FLITE_SHARE = 0.5
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = ("ZERO", "OH", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")


def spelled(rng: random.Random) -> str:
    """A row of letters, of digits, or of both."""
    kind = rng.choice(("letters", "digits", "both"))
    parts = [*LETTERS] if kind == "letters" else [*DIGITS] if kind == "digits" else [*LETTERS, *DIGITS, *DIGITS]
    return " ".join(rng.choices(parts, k=rng.randint(1, 7)))


def pronounced(text: str) -> str:
    """The text as synthesisers should get it: spelled letters read by their names, A included."""
    words = text.split()
    spelling = sum(len(word) == 1 for word in words) > len(words) / 3
    return " ".join(("ay" if word == "A" and spelling else word.lower()) for word in words)


def speak(text: str, wav: Path, rng: random.Random) -> str:
    """Write a recording of the text; returns the name of its voice. Raises CalledProcessError."""
    flite = rng.random() < FLITE_SHARE
    if flite:
        voice = rng.choice(FLITE_VOICES)
        stretch, pitch = rng.uniform(0.8, 1.2), rng.uniform(80, 220)
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.2f}"]
        command += ["--setf", f"int_f0_target_mean={pitch:.0f}", "-t", pronounced(text), "-o", str(wav)]
    else:
        voice = f"{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
        speed, pitch = rng.randint(120, 180), rng.randint(20, 80)
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(wav), pronounced(text)]
    subprocess.run(command, check=True, capture_output=True)
    return f"{'flite' if flite else 'espeak'}-{voice}"


def row(text: str, output: Path, seed: int) -> dict[str, object]:
    """Speak one text; its line of the manifest."""
    digest = hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).hexdigest()
    wav = output / "audio" / f"{digest}.wav"
    speaker = speak(text, wav, random.Random(digest))
    return {
        "key": f"synthetic/{digest}",
        "wav": str(wav.relative_to(output)),
        "txt": text,
        "speaker": speaker,
        "duration": round(soundfile.info(wav).duration, 3),
        "lang": "en",
    }


def main() -> None:
    """Synthesise as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--letters", type=int, default=1500, help="rows of letters and digits")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    texts = {utterance.txt for manifest in arguments.manifests for utterance in read_manifest(manifest)}
    texts |= {spelled(rng) for _ in range(arguments.letters)}
    wanted = sorted(text for text in texts if re.search(r"\w", text))
    (arguments.output / "audio").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        speaking = pool.map(partial(row, output=arguments.output, seed=arguments.seed), wanted)
        lines = [
            json.dumps(line, ensure_ascii=False) + "\n"
            for line in track(speaking, description="speaking", total=len(wanted))
        ]
    # Only now: a manifest that is there is whole, and a recipe that was stopped can tell.
    (arguments.output / "train.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
