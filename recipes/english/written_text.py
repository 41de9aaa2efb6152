"""Sentences of natural writing as words, marks and case, for written.py."""

import hashlib
import json
import lzma
import os
import pickle
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

NUM_WORDS = 16000
IGNORED = 255
SPLITS = ("train", "dev", "test")
MAX_WORDS = 90
MARK_OF = {",": 1, ";": 1, ":": 1, "-": 1, ".": 2, "!": 2, "?": 3}
ABBREVIATIONS = {"mr", "mrs", "dr", "ms", "st", "prof", "rev", "gen", "col", "capt", "lt", "sgt", "jr", "sr", "vs"}
SYMBOLS = re.compile(r"[^A-Za-z',;:.!?\"() -]")
SPELLED = re.compile(r"(?:[A-Za-z]\.){2,}")
DIGITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUMBERS = [*DIGITS, "zero", "oh", "ten", "eleven", "twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "hundred"]


def parse(line: str) -> list[tuple[str, int]] | None:
    """Return written words and their marks; None for a line that isn't used."""
    line = line.replace("\u2019", "'").replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')
    line = re.sub(r"\s*[\u2013\u2014]\s*|--+", " - ", line).replace("\u2026", "...").strip()
    if SYMBOLS.search(line) or not re.search(r"[.!?]['\")]*$", line):
        return None
    words: list[tuple[str, int]] = []
    for token in line.replace('"', " ").replace("(", " ").replace(")", " ").split():
        if SPELLED.fullmatch(token.rstrip(",;:!?")):
            words += [(letter.upper(), 0) for letter in token if letter.isalpha()]
            continue
        for part in re.split(r"-(?=[A-Za-z])", token):
            text = part.strip("',;:.!?-")
            found = re.sub(r"[A-Za-z']", "", part[part.rfind(text) + len(text) :] if text else part)
            mark = 2 if "..." in found else max((MARK_OF[each] for each in found), default=0)
            if text.lower() in ABBREVIATIONS and found == ".":
                mark = 0
            if text:
                words.append((text, mark))
            elif words and words[-1][1] == 0:
                words[-1] = words[-1][0], mark
    if not words or words[-1][1] < 2 or not all(re.fullmatch(r"[A-Za-z']+", text) for text, _ in words):
        return None
    for place in range(len(words) - 1):  # "Who is it?" he asked: without quotes, no sentence ends there
        if words[place][1] >= 2 and words[place + 1][0].islower():
            words[place] = words[place][0], 1
    big = sum(text[0].isupper() for text, _ in words)
    if len(words) > 3 and (big > 0.6 * len(words) or sum(t.isupper() and len(t) > 1 for t, _ in words) > 3):
        return None
    return words


def read(files: list[Path]) -> dict[str, list[list[list[tuple[str, int]]]]]:
    """Return runs of consecutive sentences by split."""
    splits: dict[str, list[list[list[tuple[str, int]]]]] = {name: [] for name in SPLITS}
    for file in files:
        with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as text:
            lines = text.read().splitlines()
        for start in range(0, len(lines), 8):
            block = lines[start : start + 8]
            draw = int(hashlib.sha256("\n".join(block).encode()).hexdigest(), 16) % 100
            into = splits["dev" if draw == 0 else "test" if draw <= 2 else "train"]
            run: list[list[tuple[str, int]]] = []
            for line in block:
                if (words := parse(line)) is not None:
                    run.append(words)
                elif run:
                    into.append(run)
                    run = []
            if run:
                into.append(run)
    aside = {said(sentence) for name in ("dev", "test") for run in splits[name] for sentence in run}
    splits["train"] = [[s for s in run if said(s) not in aside] for run in splits["train"]]
    return splits


def said(sentence: list[tuple[str, int]]) -> str:
    """Return a sentence as it is spoken."""
    return " ".join(text.lower() for text, _ in sentence)


def case_of(text: str, first: bool) -> int:
    """Return the class in CASES. At the start of a sentence a capital carries no information."""
    if len(text) > 1 and text.isupper() and "'" not in text:
        return 2
    if text[0].isupper():
        return IGNORED if first else 1
    return 0 if text.islower() else 1


def forms(runs: list[list[list[tuple[str, int]]]]) -> dict[str, str]:
    """Return the usual spelling of words with inner capitals, such as McDonald."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        for sentence in run:
            for text, _ in sentence:
                seen[text.lower()][text] += 1
    usual = {}
    for word, counts in seen.items():
        form, count = counts.most_common(1)[0]
        if count >= 2 and form not in (word, word.upper(), word.capitalize()) and count * 2 > counts.total():
            usual[word] = form
    return usual


class Data:
    """Sentences as numbers."""

    def __init__(self, runs: list[list[list[tuple[str, int]]]], ids: dict[str, int]) -> None:
        self.runs = []
        for run in runs:
            sentences = []
            for sentence in run:
                words = [ids.setdefault(text.lower(), len(ids)) for text, _ in sentence]
                marks = [mark for _, mark in sentence]
                begins = [place == 0 or marks[place - 1] >= 2 for place in range(len(marks))]
                cases = [case_of(text, first) for (text, _), first in zip(sentence, begins, strict=True)]
                rows = [words, marks, cases]
                sentences.append(np.array(rows, dtype=np.int32))
            if sentences:
                self.runs.append(sentences)

    def paragraphs(self, rng: random.Random, ids: dict[str, int]) -> list[np.ndarray]:
        """Return (3, N) words, marks and cases: one to four consecutive sentences, some truncated or with errors."""
        every, found = [sentence for run in self.runs for sentence in run], []
        for run in self.runs:
            place = 0
            while place < len(run):
                count = rng.choices((1, 2, 3, 4), (45, 25, 20, 10))[0]
                part = np.concatenate(run[place : place + count], axis=1)
                place += count
                if len(run) == 1 and rng.random() < 0.3:  # it has no neighbours, so use any other sentence
                    part = np.concatenate([part, rng.choice(every)], axis=1)
                found.append(self._spoil(part, rng, ids))
        letters, numbers = [ids[chr(code)] for code in range(ord("a"), ord("z") + 1)], [ids[word] for word in NUMBERS]
        found += [_row(rng, letters, numbers, every) for _ in range(len(found) // 25)]
        return found

    def _spoil(self, part: np.ndarray, rng: random.Random, ids: dict[str, int]) -> np.ndarray:
        if part.shape[1] > 3 and rng.random() < 0.1:
            part = part[:, rng.randrange(part.shape[1] - 2) :]
        if part.shape[1] > 2 and (part.shape[1] > MAX_WORDS or rng.random() < 0.2):
            end = rng.randrange(2, min(part.shape[1], MAX_WORDS + 1))
            part = part[:, :end].copy()
        if rng.random() < 0.5:
            return part
        part, kept = part.copy(), np.ones(part.shape[1], dtype=bool)
        for place in range(part.shape[1] - 1):
            draw = rng.random()
            if draw < 0.02 and part[1, place] == 0:
                kept[place] = False
            elif draw < 0.06:
                part[0, place] = rng.randrange(len(ids))
                part[2, place] = IGNORED
        return part[:, kept]


def _row(rng: random.Random, letters: list[int], numbers: list[int], every: list[np.ndarray]) -> np.ndarray:
    """Return spelled letters, numbers or both; half of them follow some words."""
    kind, count = rng.random(), rng.randrange(2, 9)
    chosen = [rng.choice(letters if rng.random() < (0.9, 0.5, 0.0)[int(3 * kind)] else numbers) for _ in range(count)]
    spelled = set(letters)
    row = np.array([chosen, [0] * count, [2 if word in spelled else 0 for word in chosen]], dtype=np.int32)
    row[1, -1] = IGNORED
    if rng.random() < 0.5:
        before = rng.choice(every)
        before = before[:, : rng.randrange(1, before.shape[1] + 1)].copy()
        before[1, -1] = IGNORED
        row = np.concatenate([before, row], axis=1)
    return row[:, :MAX_WORDS]


def prepare(files: list[Path], output: Path) -> tuple[Data, Data, dict[str, int], list[str]]:
    """Return train, dev, numbers of all words, and the vocabulary; cached in `output`."""
    kept = output / "data.pickle"
    if kept.exists():
        with kept.open("rb") as file:
            found: tuple[Data, Data, dict[str, int], list[str]] = pickle.load(file)
        return found
    output.mkdir(parents=True, exist_ok=True)
    splits = read(files)
    print({name: sum(len(s) for run in runs for s in run) for name, runs in splits.items()}, "words", flush=True)
    counts = Counter(text.lower() for run in splits["train"] for sentence in run for text, _ in sentence)
    words = [word for word, _ in counts.most_common(NUM_WORDS)]
    vocabulary = {"words": words, "forms": forms(splits["train"])}
    (output / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    ids: dict[str, int] = {}
    result = Data(splits["train"], ids), Data(splits["dev"], ids), ids, words
    for word in (*NUMBERS, *map(chr, range(ord("a"), ord("z") + 1))):
        ids.setdefault(word, len(ids))
    partial = output / "data.partial"
    with partial.open("wb") as file:
        pickle.dump(result, file)
    os.replace(partial, kept)
    return result
