"""Small corpora for tests, and the content of their tars according to Python's tarfile."""

import json
import tarfile

import numpy as np
import soundfile

from unichoir.data.utterance import Utterance


def noise(seed, length=1600):
    return np.random.default_rng(seed).integers(-32768, 32768, length, dtype=np.int16)


def make_utterances(folder, count, container="WAV"):
    folder.mkdir(exist_ok=True)
    utterances = []
    for number in range(count):
        path = folder / f"{number}.{container.lower()}"
        soundfile.write(path, noise(number, 1600 + 160 * number), 16000, format=container)
        utterance = Utterance(key=f"k{number}", wav=str(path), txt=f"text {number} 你好", speaker=f"s{number % 3}")
        utterances.append(utterance)
    return utterances


def members(path):
    """Return [(name, content)] as read by Python's tarfile."""
    with tarfile.open(path, "r:") as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
