"""Punctuation models in unichoir's and sherpa-onnx's formats, whose weights are simple tables of words."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LOWER, UPPER, CAPITAL, MIXED = range(4)
NOTHING, COMMA, PERIOD, QUESTION = range(4)
ROW_LENGTH = 200
CASED_METADATA = {"COMMA": 1, "PERIOD": 2, "QUESTION": 3, "UPPER": 1, "CAP": 2, "MIX_CASE": 3}
CJK_MARKS = ("<unk>", "_", "，", "。", "？", "、")


def save_cased_model(folder: Path, words: dict[str, tuple[int, int]], metadata: dict[str, int] | None = None) -> Path:
    """Save a model in sherpa-onnx-online-punct-en's format: (case, mark) of each known word, in any context.

    The graph takes token_ids and valid_ids (N, 200) and label_lens (N,) and gives logits (words, 4) twice.
    """
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz'"
    pieces = ["<unk>", "<s>", "</s>", *(f"▁{word}" for word in words), "▁", *letters]
    scores = [0.0, 0.0, 0.0, *(-1.0 for _ in words), *(-10.0 for _ in range(len(letters) + 1))]
    lines = [f"{piece}\t{score}\n" for piece, score in zip(pieces, scores, strict=True)]
    (folder / "bpe.vocab").write_text("".join(lines), encoding="utf-8")
    labels = np.array([(0, 0)] * 3 + list(words.values()) + [(0, 0)] * (len(letters) + 1))
    nodes = [
        helper.make_node("Equal", ["valid_ids", "one"], ["is_first"]),
        helper.make_node("Equal", ["token_ids", "one"], ["is_sos"]),
        helper.make_node("Equal", ["token_ids", "two"], ["is_eos"]),
        helper.make_node("Or", ["is_sos", "is_eos"], ["is_edge"]),
        helper.make_node("Not", ["is_edge"], ["is_inside"]),
        helper.make_node("And", ["is_first", "is_inside"], ["is_word"]),
        helper.make_node("NonZero", ["is_word"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["places"], perm=[1, 0]),
        helper.make_node("GatherND", ["token_ids", "places"], ["word_ids"]),
        helper.make_node("Gather", ["case_table", "word_ids"], ["case_logits"]),
        helper.make_node("Gather", ["mark_table", "word_ids"], ["mark_logits"]),
    ]
    shapes = {"token_ids": ["N", ROW_LENGTH], "valid_ids": ["N", ROW_LENGTH], "label_lens": ["N"]}
    constants: dict[str, NDArray[np.generic]] = {
        "one": np.array(1, np.int32),
        "two": np.array(2, np.int32),
        "case_table": np.eye(4, dtype=np.float32)[labels[:, 0]],
        "mark_table": np.eye(4, dtype=np.float32)[labels[:, 1]],
    }
    outputs = {"case_logits": ["words", 4], "mark_logits": ["words", 4]}
    _save(folder / "model.onnx", nodes, shapes, outputs, constants, CASED_METADATA if metadata is None else metadata)
    return folder


def save_cjk_model(folder: Path, tokens: dict[str, str], metadata: dict[str, object] | None = None) -> Path:
    """Save a model in sherpa-onnx-punct-ct-transformer-zh-en's format: the mark after each token (`_`: none).

    The graph takes ids (1, T) and their number (1,) and gives logits (1, T, 6).
    """
    folder.mkdir(parents=True)
    labels = np.array([1] + [CJK_MARKS.index(mark) for mark in tokens.values()])
    known = {
        "tokens": "|".join(["<unk>", *tokens]),
        "vocab_size": len(tokens) + 1,
        "punctuations": "|".join(CJK_MARKS),
        "unk_symbol": "<unk>",
    }
    nodes = [helper.make_node("Gather", ["table", "inputs"], ["logits"])]
    constants: dict[str, NDArray[np.generic]] = {"table": np.eye(len(CJK_MARKS), dtype=np.float32)[labels]}
    inputs, outputs = {"inputs": [1, "T"], "text_lengths": [1]}, {"logits": [1, "T", len(CJK_MARKS)]}
    _save(folder / "model.onnx", nodes, inputs, outputs, constants, {**known, **(metadata or {})})
    return folder


def save_english_model(
    folder: Path,
    words: dict[str, tuple[int, int]],
    before: dict[str, int] | None = None,
    metadata: dict[str, object] | None = None,
) -> Path:
    """Save a model in the format of `punctuation.onnx`: (case, mark) of each word; other words are like `<unk>`.

    before: marks before a word that override the previous word's own, to test the look-ahead. The graph takes rows
    (N, 8), of which it sees the first column, and gives marks (N, 4) and cases (N, 3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, other = (
        [name for name in {**words, **(before or {})} if name != "<unk>"],
        words.get("<unk>", (LOWER, NOTHING)),
    )
    labels = np.array([other, *(words.get(name, other) for name in names)])
    cases = np.array([0, 2, 1])[labels[:, 0]]  # our order is small, capitalised, capitals
    ahead = np.zeros((len(names) + 1, 4), np.float32)
    for row, name in enumerate(names, 1):
        if before and name in before:
            ahead[row, before[name]] = 12
    nodes = [
        helper.make_node("Gather", ["rows", "zero"], ["ids"], axis=1),
        helper.make_node("Pad", ["ids", "one_more", "nothing"], ["longer"]),
        helper.make_node("Slice", ["longer", "from_one", "to_end"], ["next_ids"]),
        helper.make_node("Gather", ["ahead", "next_ids"], ["mark_ahead"]),
        helper.make_node("Gather", ["mark_table", "ids"], ["mark_here"]),
        helper.make_node("Add", ["mark_ahead", "mark_here"], ["mark_logits"]),
        helper.make_node("Softmax", ["mark_logits"], ["marks"], axis=1),
        helper.make_node("Gather", ["case_table", "ids"], ["cases"]),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "zero": np.array(0),
        "one_more": np.array([0, 1]),
        "nothing": np.array(0, np.int32),
        "from_one": np.array([1]),
        "to_end": np.array([np.iinfo(np.int64).max]),
        "ahead": ahead,
        "mark_table": 6 * np.eye(4, dtype=np.float32)[labels[:, 1]],
        "case_table": np.eye(3, dtype=np.float32)[cases],
    }
    known = {"unichoir_punctuation": 1, "words": " ".join(names), "forms": "McDonald O'Brien"}
    outputs: dict[str, list[str | int]] = {"marks": ["N", 4], "cases": ["N", 3]}
    file = folder / "punctuation.onnx"
    _save(file, nodes, {"rows": ["N", 8]}, outputs, constants, known if metadata is None else metadata)
    return folder


def _save(
    file: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[str | int]],
    outputs: dict[str, list[str | int]],
    constants: dict[str, NDArray[np.generic]],
    metadata: dict[str, object] | dict[str, int],
) -> None:
    graph = helper.make_graph(
        nodes,
        "punctuation",
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    onnx.save(model, file)
