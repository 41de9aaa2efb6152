"""Train the model of English marks and case: python written.py train TEXT... --output DIR [--hours H].

TEXT are files of natural English, one sentence a line (.txt or .txt.xz), neighbours in the order they were written in.
Lines without a mark at the end, with digits or in capitals teach nothing and are left out. Of every hundred blocks of
eight lines one is kept aside as dev and two as test, by their hash, and what is said there is not trained on either.

`train` goes on where a run into the same DIR has ended, `export` writes punctuation.onnx, which a model directory
carries, and `test` scores that file, as it is used, on what was kept aside.
"""

import argparse
import hashlib
import json
import lzma
import math
import os
import pickle
import random
import re
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from unichoir.directory.sums import write_sums
from unichoir.text.english_punctuation import (
    CASES,
    FORMAT,
    FORMAT_KEY,
    MARKS,
    PUNCTUATION_FILE,
    load_english_punctuation,
)
from unichoir.text.marked import Context, Marked
from unichoir.text.word_features import NUM_BUCKETS, NUM_FEATURES, word_rows

NUM_WORDS, WIDTH, KERNEL, HIDDEN = 16000, 128, 5, 192
IGNORED = 255
RANDOM = np.random.default_rng(0)
SPLITS = ("train", "dev", "test")
BATCH_WORDS, MAX_WORDS = 4096, 90
MARK_OF = {",": 1, ";": 1, ":": 1, "-": 1, ".": 2, "!": 2, "?": 3}
ABBREVIATIONS = {"mr", "mrs", "dr", "ms", "st", "prof", "rev", "gen", "col", "capt", "lt", "sgt", "jr", "sr", "vs"}
SYMBOLS = re.compile(r"[^A-Za-z',;:.!?\"() -]")
SPELLED = re.compile(r"(?:[A-Za-z]\.){2,}")
DIGITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
NUMBERS = [*DIGITS, "zero", "oh", "ten", "eleven", "twelve", "fifteen", "twenty", "thirty", "forty", "fifty", "hundred"]


def parse(line: str) -> list[tuple[str, int]] | None:
    """Words as written and their marks; None for a line that teaches nothing."""
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
    for place in range(len(words) - 1):  # "Who is it?" he asked: unquoted, no sentence ends there
        if words[place][1] >= 2 and words[place + 1][0].islower():
            words[place] = words[place][0], 1
    big = sum(text[0].isupper() for text, _ in words)
    if len(words) > 3 and (big > 0.6 * len(words) or sum(t.isupper() and len(t) > 1 for t, _ in words) > 3):
        return None
    return words


def read(files: list[Path]) -> dict[str, list[list[list[tuple[str, int]]]]]:
    """Runs of consecutive sentences by split."""
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
    """A sentence as it is heard."""
    return " ".join(text.lower() for text, _ in sentence)


def case_of(text: str, first: bool) -> int:
    """Class of CASES; at the start of a sentence a capital says nothing."""
    if len(text) > 1 and text.isupper() and "'" not in text:
        return 2
    if text[0].isupper():
        return IGNORED if first else 1
    return 0 if text.islower() else 1


def forms(runs: list[list[list[tuple[str, int]]]]) -> dict[str, str]:
    """The usual spelling of words with capitals inside, as McDonald."""
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
        """(3, N) words, marks and cases: one to four sentences that follow each other, some cut, some misheard."""
        every, found = [sentence for run in self.runs for sentence in run], []
        for run in self.runs:
            place = 0
            while place < len(run):
                count = rng.choices((1, 2, 3, 4), (45, 25, 20, 10))[0]
                part = np.concatenate(run[place : place + count], axis=1)
                place += count
                if len(run) == 1 and rng.random() < 0.3:  # its neighbours are gone: any other will do
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
    """Spelled letters, numbers or both; half of them after some words."""
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


class Network(nn.Module):
    """Two convolutions, which look two words ahead each, then a GRU over all words before."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_WORDS + 1 + NUM_BUCKETS, WIDTH, sparse=True)
        nn.init.normal_(self.table.weight, std=0.3 / math.sqrt(NUM_FEATURES))
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2) for _ in range(2))
        self.gru = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.output = nn.Linear(WIDTH + HIDDEN, len(MARKS) + len(CASES))
        self.dropout = nn.Dropout(0.15)

    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """rows (B, N, NUM_FEATURES), mask (B, N) -> logits (B, N, marks + cases)."""
        x = self.dropout(self.table(rows).sum(2)) * mask[..., None]
        for convolution in self.convolutions:
            y = convolution(x.transpose(1, 2)).transpose(1, 2)
            x = (x + torch.relu(y)) * mask[..., None]
        x = self.dropout(x)
        hidden, _ = self.gru(x)
        return self.output(torch.cat([x, self.dropout(hidden)], dim=-1))


def batches(paragraphs: list[np.ndarray], rng: random.Random) -> list[list[np.ndarray]]:
    """Of like lengths, in any order."""
    rng.shuffle(paragraphs)
    paragraphs.sort(key=lambda part: part.shape[1] // 4)
    found, batch = [], []
    for part in paragraphs:
        if batch and (len(batch) + 1) * max(part.shape[1], batch[-1].shape[1]) > BATCH_WORDS:
            found.append(batch)
            batch = []
        batch.append(part)
    rng.shuffle(found)
    return found


def losses(network: Network, batch: list[np.ndarray], table: np.ndarray, forget: float) -> torch.Tensor:
    """Mean over the words of a batch of both losses; `forget`: share of words that are unknown for once."""
    longest = max(part.shape[1] for part in batch)
    values = np.full((3, len(batch), longest), -1, dtype=np.int64)
    for place, part in enumerate(batch):
        values[:, place, : part.shape[1]] = part
    mask = values[0] >= 0
    rows = table[np.maximum(values[0], 0)]
    unknown = RANDOM.random(mask.shape) < forget
    rows[unknown, 0] = 0
    rows[unknown, 6] = NUM_WORDS + 1 + RANDOM.integers(NUM_BUCKETS, size=int(unknown.sum()))
    logits = network(torch.from_numpy(rows).long(), torch.from_numpy(mask).float())
    targets = np.where(values[1:] == IGNORED, -1, values[1:])
    marks, cases = (torch.from_numpy(target).flatten() for target in targets)
    logits = logits.flatten(0, 1)
    of_marks = nn.functional.cross_entropy(logits[:, : len(MARKS)], marks, ignore_index=-1)
    of_cases = nn.functional.cross_entropy(logits[:, len(MARKS) :], cases, ignore_index=-1)
    return of_marks + of_cases


def prepare(files: list[Path], output: Path) -> tuple[Data, Data, dict[str, int], list[str]]:
    """Train, dev, numbers of all words, and the vocabulary; kept in `output` for the next sitting."""
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


def train(arguments: argparse.Namespace) -> None:
    """Up to the hours given, all sittings together; the learning rate falls to nothing at their end."""
    torch.set_num_threads(1)
    data, dev, ids, words = prepare(arguments.text, arguments.output)
    aside = batches(dev.paragraphs(random.Random(1), ids), random.Random(1))
    table = word_rows(list(ids), {word: place for place, word in enumerate(words, 1)})
    network, state = Network(), {"seconds": 0.0, "epoch": 0, "place": 0}
    sparse = torch.optim.SparseAdam([network.table.weight], lr=1e-3)
    others = [value for name, value in network.named_parameters() if name != "table.weight"]
    dense = torch.optim.AdamW(others, lr=1e-3, weight_decay=0.01)
    file = arguments.output / "state.pt"
    if file.exists():
        saved = torch.load(file)
        network.load_state_dict(saved["network"])
        sparse.load_state_dict(saved["sparse"])
        dense.load_state_dict(saved["dense"])
        state = saved["state"]
    total = 3600 * arguments.hours
    while state["seconds"] < total:
        rng = random.Random(state["epoch"])
        for place, batch in enumerate(batches(data.paragraphs(rng, ids), rng)):
            if place < state["place"]:
                continue
            begin = time.process_time()
            share = min(state["seconds"] / total, 1.0)
            for optimizer, rate in ((sparse, 2e-3), (dense, 2e-3)):
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (state["place"] + 1 + 1000 * state["epoch"]) / 200) * (1.0 - share)
            network.train()
            loss = losses(network, batch, table, 0.04)
            sparse.zero_grad()
            dense.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(others, 1.0)
            sparse.step()
            dense.step()
            state["place"] = place + 1
            state["seconds"] += time.process_time() - begin
            over = state["seconds"] >= total
            if place % 200 == 199 or over:
                network.eval()
                with torch.no_grad():
                    value = sum(losses(network, each, table, 0.0).item() for each in aside) / max(len(aside), 1)
                print(
                    f"{state['epoch']} {place + 1} {state['seconds']:.0f} s  train {loss:.4f}  dev {value:.4f}",
                    flush=True,
                )
                saved = {"network": network.state_dict(), "sparse": sparse.state_dict(), "dense": dense.state_dict()}
                torch.save({**saved, "state": state}, arguments.output / "state.partial")
                os.replace(arguments.output / "state.partial", file)
            if over:
                return
        state["epoch"], state["place"] = state["epoch"] + 1, 0


def export(arguments: argparse.Namespace) -> None:
    """The table in int8, a scale for each row, the other weights in float16; all is computed in float32."""
    network = Network()
    network.load_state_dict(torch.load(arguments.folder / "state.pt")["network"])
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    vocabulary = json.loads((arguments.folder / "vocabulary.json").read_text(encoding="utf-8"))
    graph = Graph()
    table = weights["table.weight"]
    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-6).astype(np.float16)
    whole = np.clip(np.round(table / scale.astype(np.float32)), -127, 127).astype(np.int8)
    picked = graph.add("Cast", [graph.add("Gather", [graph.constant(whole), "rows"])], to=TensorProto.FLOAT)
    scales = graph.add("Cast", [graph.add("Gather", [graph.constant(scale), "rows"])], to=TensorProto.FLOAT)
    axes = graph.constant(np.array([1], dtype=np.int64))
    x = graph.add("ReduceSum", [graph.add("Mul", [picked, scales]), axes], keepdims=0)  # (N, D)
    x = graph.add("Unsqueeze", [graph.add("Transpose", [x], perm=[1, 0]), graph.constant(np.array([0]))])  # (1, D, N)
    for number in range(2):
        kernel, bias = (graph.weight(weights[f"convolutions.{number}.{name}"]) for name in ("weight", "bias"))
        y = graph.add("Conv", [x, kernel, bias], pads=[KERNEL // 2] * 2)
        x = graph.add("Add", [x, graph.add("Relu", [y])])
    x = graph.add("Transpose", [x], perm=[2, 0, 1])  # (N, 1, D)

    def gates(name: str) -> np.ndarray:  # PyTorch's reset, update, new are ONNX's update, reset, hidden
        reset, update, new = np.split(weights[f"gru.{name}_l0"], 3)
        return np.concatenate([update, reset, new])

    inputs = [x, *(graph.weight(gates(name)[None]) for name in ("weight_ih", "weight_hh"))]
    inputs.append(graph.weight(np.concatenate([gates("bias_ih"), gates("bias_hh")])[None]))
    hidden = graph.add("GRU", inputs, hidden_size=HIDDEN, linear_before_reset=1)  # (N, 1, 1, H)
    flat = [
        graph.add("Reshape", [each, graph.constant(np.array([-1, size]))])
        for each, size in ((x, WIDTH), (hidden, HIDDEN))
    ]
    both = graph.add("Concat", flat, axis=1)
    output, bias = graph.weight(weights["output.weight"].T), graph.weight(weights["output.bias"])
    logits = graph.add("Add", [graph.add("MatMul", [both, output]), bias])
    sizes = graph.constant(np.array([len(MARKS), len(CASES)]))
    graph.nodes.append(helper.make_node("Split", [logits, sizes], ["mark_logits", "case_logits"], axis=1))
    for name in ("mark", "case"):
        graph.nodes.append(helper.make_node("Softmax", [f"{name}_logits"], [f"{name}s"], axis=1))
    metadata = {
        FORMAT_KEY: FORMAT,
        "words": " ".join(vocabulary["words"]),
        "forms": " ".join(vocabulary["forms"].values()),
    }
    graph.save(arguments.folder / PUNCTUATION_FILE, metadata)
    if arguments.model is not None:
        shutil.copyfile(arguments.folder / PUNCTUATION_FILE, arguments.model / PUNCTUATION_FILE)
        write_sums(arguments.model)
    print(f"{arguments.folder / PUNCTUATION_FILE}: {(arguments.folder / PUNCTUATION_FILE).stat().st_size} bytes")


class Graph:
    """An ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        """Its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, value: np.ndarray) -> str:
        """Kept as float16."""
        return self.add("Cast", [self.constant(value.astype(np.float16))], to=TensorProto.FLOAT)

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        """A node of one output, whose name it returns."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """From `rows` to `marks` and `cases`."""
        rows = helper.make_tensor_value_info("rows", TensorProto.INT32, ["N", NUM_FEATURES])
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
            for name, size in (("marks", len(MARKS)), ("cases", len(CASES)))
        ]
        graph = helper.make_graph(self.nodes, "punctuation", [rows], outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def test(arguments: argparse.Namespace) -> None:
    """Whole paragraphs of up to four sentences, as in a recording, then sentences alone, as a stream's utterances."""
    punctuate = load_english_punctuation(arguments.model)
    runs = read(arguments.text)[arguments.split]
    paragraphs = [run[place : place + 4] for run in runs for place in range(0, len(run), 4)]
    begin, num_words = time.perf_counter(), 0
    for name in ("recordings", "utterances"):
        score = Score()
        for paragraph in paragraphs:
            before = ""
            for sentences in [paragraph] if name == "recordings" else [[sentence] for sentence in paragraph]:
                reference = [word for sentence in sentences for word in sentence]
                found = punctuate([text.lower() for text, _ in reference], Context(before=before))
                before = " ".join(word.text + word.mark for word in found)
                score.add(reference, found)
                num_words += len(found)
        print(f"{name}: {score}")
    print(f"{1000 * (time.perf_counter() - begin) / num_words:.3f} ms for a word")


class Score:
    """Counts of what is right, of what was found and of what there is, by kind."""

    def __init__(self) -> None:
        self.right, self.found, self.there = Counter[str](), Counter[str](), Counter[str]()

    def add(self, reference: list[tuple[str, int]], found: list[Marked]) -> None:
        """A word's case is right where all of its letters are; words without capitals in both do not count."""
        for (text, mark), new in zip(reference, found, strict=True):
            for name, true, given in (("mark", MARKS[mark], new.mark), ("case", text, new.text)):
                if name == "case":
                    true, given = ("" if value.islower() else value for value in (true, given))
                kinds = [f"{name} {value}" if name == "mark" else name for value in (true, given)]
                self.there[kinds[0]] += bool(true)
                self.found[kinds[1]] += bool(given)
                self.right[kinds[0]] += bool(true) and true == given

    def __str__(self) -> str:
        parts = []
        for name, kind in (("case", "case"), ("comma", "mark ,"), ("full stop", "mark ."), ("question mark", "mark ?")):
            right, found, there = self.right[kind], self.found[kind], self.there[kind]
            precision, recall = right / max(found, 1), right / max(there, 1)
            f1 = 2 * right / max(found + there, 1)
            parts.append(f"{name} F1 {f1:.3f} (precision {precision:.3f}, recall {recall:.3f}, {there})")
        return "; ".join(parts)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train on TEXT")
    command.add_argument("text", type=Path, nargs="+")
    command.add_argument("--output", type=Path, required=True)
    command.add_argument("--hours", type=float, default=0.6, help="of processor time, one thread (default: 0.6)")
    command.set_defaults(do=train)
    command = commands.add_parser("export", help="write DIR/punctuation.onnx")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("--model", type=Path, help="a model directory that is to have it as well")
    command.set_defaults(do=export)
    command = commands.add_parser("test", help="score MODEL on what was kept aside of TEXT")
    command.add_argument("model", type=Path)
    command.add_argument("text", type=Path, nargs="+")
    command.add_argument("--split", choices=SPLITS[1:], default="test")
    command.set_defaults(do=test)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
