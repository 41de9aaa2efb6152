"""Train the model of English punctuation and case: python written.py train TEXT... --output DIR [--hours H].

TEXT are files of natural English, one sentence per line (.txt or .txt.xz), in their original order. Lines without a
final mark, with digits or in capitals are left out. By their hash, one of every hundred blocks of eight lines is kept
as dev and two as test; their sentences are not used for training either.

`train` continues an earlier run in DIR. `export` writes punctuation.onnx, a part of a model directory. `test` scores
that file on the held-out text.
"""

import argparse
import json
import math
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from written_text import IGNORED, NUM_WORDS, SPLITS, prepare, read

from unichoir.bundle.sums import write_sums
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

WIDTH, KERNEL, HIDDEN = 128, 5, 192
RANDOM = np.random.default_rng(0)
BATCH_WORDS = 4096


class Network(nn.Module):
    """Two convolutions that look two words ahead each, then a GRU over all previous words."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(NUM_WORDS + 1 + NUM_BUCKETS, WIDTH, sparse=True)
        nn.init.normal_(self.table.weight, std=0.3 / math.sqrt(NUM_FEATURES))
        self.convolutions = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2) for _ in range(2))
        self.gru = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.output = nn.Linear(WIDTH + HIDDEN, len(MARKS) + len(CASES))
        self.dropout = nn.Dropout(0.15)

    def forward(self, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map rows (B, N, NUM_FEATURES) and mask (B, N) to logits (B, N, marks + cases)."""
        x = self.dropout(self.table(rows).sum(2)) * mask[..., None]
        for convolution in self.convolutions:
            y = convolution(x.transpose(1, 2)).transpose(1, 2)
            x = (x + torch.relu(y)) * mask[..., None]
        x = self.dropout(x)
        hidden, _ = self.gru(x)
        return self.output(torch.cat([x, self.dropout(hidden)], dim=-1))


def batches(paragraphs: list[np.ndarray], rng: random.Random) -> list[list[np.ndarray]]:
    """Return batches of similar lengths, in random order."""
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
    """Return both losses, averaged over the words of a batch. `forget`: fraction of words treated as unknown."""
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


def train(arguments: argparse.Namespace) -> None:
    """Train for the given hours, counting earlier runs. The learning rate falls to zero at the end."""
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
    """Write the table in int8 with a scale per row, and other weights in float16. Computation is in float32."""
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
    """An ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, value: np.ndarray) -> str:
        """Add a weight, stored as float16."""
        return self.add("Cast", [self.constant(value.astype(np.float16))], to=TensorProto.FLOAT)

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        """Add a node with one output and return the output's name."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """Save the graph from `rows` to `marks` and `cases`."""
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
    """Test paragraphs of up to four sentences, as in a recording, then single sentences, as in a stream."""
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
    """Counts of correct, found and expected items, by kind."""

    def __init__(self) -> None:
        self.right, self.found, self.there = Counter[str](), Counter[str](), Counter[str]()

    def add(self, reference: list[tuple[str, int]], found: list[Marked]) -> None:
        """Count a word's case as correct if all letters match. Words without capitals in both are ignored."""
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
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help="train on TEXT")
    command.add_argument("text", type=Path, nargs="+")
    command.add_argument("--output", type=Path, required=True)
    command.add_argument(
        "--hours", type=float, default=0.6, help="hours of processor time with one thread (default: 0.6)"
    )
    command.set_defaults(do=train)
    command = commands.add_parser("export", help="write DIR/punctuation.onnx")
    command.add_argument("folder", type=Path, metavar="DIR")
    command.add_argument("--model", type=Path, help="a model directory that also gets the file")
    command.set_defaults(do=export)
    command = commands.add_parser("test", help="score MODEL on the held-out part of TEXT")
    command.add_argument("model", type=Path)
    command.add_argument("text", type=Path, nargs="+")
    command.add_argument("--split", choices=SPLITS[1:], default="test")
    command.set_defaults(do=test)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
