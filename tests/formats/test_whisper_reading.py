"""Whisper's files are read: the same weights and vocabulary from each; damaged or foreign files are refused by name."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.formats import whisper_reference as reference
from tests.formats.whisper_reference import random_weights, vocabulary
from torch import Tensor

from unichoir.errors import CheckpointError
from unichoir.formats.whisper.read import read_whisper
from unichoir.formats.whisper.vocabulary import read_vocabulary


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


@pytest.mark.parametrize("form", ["openai", "huggingface", "shards", "ctranslate2"])
def test_every_format_holds_the_same_weights(folders: dict[str, Path], form: str) -> None:
    model, expected = read_whisper(folders[form]), random_weights()
    assert (model.dims.num_encoder_heads, model.dims.num_decoder_heads) == (2, 2)
    del expected["encoder.positional_embedding"]
    found = {name: tensor for name, tensor in model.weights.items() if not name.endswith("key.bias")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("quantization", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 3e-2), ("int16", 5e-3)]
)
def test_small_types_are_read(tmp_path: Path, quantization: str, tolerance: float) -> None:
    state = random_weights()
    model = read_whisper(reference.write_ctranslate2(tmp_path / "small", state, quantization))
    for name, tensor in model.weights.items():
        assert tensor.dtype == torch.float32
        if name in state:
            torch.testing.assert_close(tensor, state[name], atol=tolerance, rtol=tolerance)


# Vocabularies


def test_every_file_of_a_vocabulary_says_the_same(tmp_path: Path) -> None:
    """With as many tokens as large-v3 but the languages: those after them are found from the end."""
    import base64

    from unichoir.formats.whisper.vocabulary import byte_characters

    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    text = [*sorted(byte_characters()), *reference.WORDS]
    after = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokens = [*text, "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", *after]
    tokens += [f"<|{0.02 * i:.2f}|>" for i in range(1501)]
    ids = {token: i for i, token in enumerate(tokens)}
    added = [{"id": i, "content": token} for token, i in ids.items() if token.startswith("<|")]
    plain = {token: ids[token] for token in text}
    lines = [b"%s %d" % (base64.b64encode(bytes(byte_of[c] for c in token)), i) for i, token in enumerate(text)]
    contents = {
        "tokenizer.json": {"tokenizer.json": json.dumps({"added_tokens": added, "model": {"vocab": plain}})},
        "vocab.json": {
            "vocab.json": json.dumps(plain),
            "added_tokens.json": json.dumps({token["content"]: token["id"] for token in added}),
        },
        "vocabulary.json": {"vocabulary.json": json.dumps(tokens)},
        "vocabulary.txt": {"vocabulary.txt": "".join(f"{token}\n" for token in tokens)},
        "tiktoken": {"multilingual.tiktoken": b"\n".join(lines).decode() + "\n"},
    }
    for kind, files in contents.items():
        (tmp_path / kind).mkdir()
        for name, content in files.items():
            (tmp_path / kind / name).write_text(content, encoding="utf-8")
        found = read_vocabulary(tmp_path / kind, len(tokens))
        missing = {"<|en|>", "<|zh|>", *tokens[-1501:]} if kind == "tiktoken" else set()
        assert found == {token: i for token, i in ids.items() if token not in missing}, kind


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocabulary.json", "[", "vocabulary.json: not valid JSON"),
        ("vocabulary.json", "3", "vocabulary.json: no tokens with their ids"),
        ("vocabulary.json", '["a"]', r"vocabulary.json: no token <\|endoftext\|>"),
        ("vocabulary.json", '{"a": 400}', "vocabulary.json: token 'a' has id 400, the model has 271"),
        ("vocabulary.json", '{"a": "b"}', "vocabulary.json: token 'a' has id 'b'"),
        ("tokenizer.json", "{}", "tokenizer.json: no tokens with their ids"),
        ("vocab.json", "[]", "vocab.json: no tokens with their ids"),
        ("gpt2.tiktoken", "IQ== x\n", r"gpt2.tiktoken, line 1: expected a token"),
        ("gpt2.tiktoken", "IQ== 0\n", r"gpt2.tiktoken: 1 text tokens are too many for a model of 271"),
    ],
)
def test_a_broken_vocabulary_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary(tmp_path, len(vocabulary()))


# What is refused


def test_a_ctranslate2_file_cut_anywhere_is_refused(copy: Callable[[str], Path]) -> None:
    path = copy("ctranslate2") / "model.bin"
    data = path.read_bytes()
    for size in {0, 1, 4, 5, 6, 10, 18, 22, 23, *range(24, len(data), len(data) // 40), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"model\.bin: (truncated: it ends within|is empty)"):
            read_whisper(path)
    path.write_bytes(data + b"!")
    with pytest.raises(CheckpointError, match=r"model\.bin: 1 bytes follow"):
        read_whisper(path)


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


HEAD = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF" * 10, r"not a CTranslate2 model of format version 6 \(found 1179011410\)"),
        (struct.pack("<I", 6) + string("TransformerSpec") + bytes(8), "of 'TransformerSpec', expected 'WhisperSpec'"),
        (struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 2, 0), "revision 2 of WhisperSpec, only 3"),
        (struct.pack("<IH", 6, 3) + b"abc", "the specification does not end"),
        (struct.pack("<IH", 6, 3) + b"\xff\xfe\0", "the specification is not text"),
        (
            HEAD + string("x") + struct.pack("<BIIBI", 2, 2**31, 2**31, 0, 64) + bytes(64),
            "'x' of shape .* has 64 bytes",
        ),
        (
            HEAD + string("x") + struct.pack("<BIBI", 1, 2**30 - 1, 0, 2**32 - 4),
            "truncated: it ends within variable 'x'",
        ),
        (HEAD + string("x") + struct.pack("<BBI", 0, 9, 4), "'x' is of the unknown type 9"),
        (HEAD + string("x") + struct.pack("<B", 99), "'x' has 99 dimensions"),
        (HEAD + string("x") + struct.pack("<BIBI", 1, 0, 0, 0) + bytes(4), "weight 'encoder.conv1.weight' is missing"),
        (HEAD + string("x") + struct.pack("<BIBI", 1, 1, 1, 1) + bytes(5), "'x_scale' is missing or does not fit"),
        (HEAD + string("decoder/pre_norm") + struct.pack("<BBIb", 0, 1, 1, 0) + bytes(4), "decoder/pre_norm is not 1"),
    ],
)
def test_foreign_bytes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.bin: .*{message}|model\.bin: {message}"):
        read_whisper(tmp_path)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("made_by_a_pickle").touch, ())


def test_no_code_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"dims": {}, "model_state_dict": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt: cannot be read"):
        read_whisper(tmp_path / "evil.pt")
    assert not (tmp_path / "made_by_a_pickle").exists()
    (tmp_path / "folder").mkdir()
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin"):
        (tmp_path / "folder" / name).write_bytes(b"x")
        for source in (tmp_path / "folder", tmp_path / "folder" / name):
            with pytest.raises(CheckpointError, match=r"pytorch_model.*pickled.*safe_serialization=True"):
                read_whisper(source)


def change_state(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors")

    return edit


def change_json(name: str, key: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {key: value}))

    return edit


@pytest.mark.parametrize(
    ("form", "edit", "message"),
    [
        ("huggingface", lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        ("huggingface", change_json("config.json", "model_type", "bart"), "model_type is 'bart'"),
        ("huggingface", change_json("config.json", "activation_function", "relu"), "activation_function is 'relu'"),
        (
            "huggingface",
            change_json("config.json", "decoder_attention_heads", None),
            "'decoder_attention_heads' is None",
        ),
        ("huggingface", change_json("config.json", "encoder_attention_heads", 5), "5 attention heads do not divide"),
        (
            "huggingface",
            lambda folder: (folder / "model.safetensors").write_bytes(b"?" * 99),
            "model.safetensors: cannot",
        ),
        (
            "huggingface",
            change_state(lambda state: state.pop("model.decoder.layers.1.fc1.bias")),
            r"weight 'decoder.blocks.1.mlp.0.bias' is missing",
        ),
        (
            "huggingface",
            change_state(lambda state: state.update({"model.extra": torch.zeros(1)})),
            "weight 'extra' is not part of a Whisper",
        ),
        (
            "huggingface",
            change_state(lambda state: state.update({"model.encoder.layers.0.fc1.bias": torch.zeros(3)})),
            r"weight 'encoder.blocks.0.mlp.0.bias' has shape \(3,\), expected \(48,\)",
        ),
        (
            "huggingface",
            change_state(lambda state: state["model.encoder.conv1.bias"].fill_(torch.nan)),
            "weight 'encoder.conv1.bias' holds something other than finite numbers",
        ),
        (
            "huggingface",
            change_state(lambda state: state["model.encoder.embed_positions.weight"].add_(0.1)),
            "'encoder.positional_embedding' is not Whisper's table",
        ),
        (
            "shards",
            lambda folder: (folder / "model-00001.safetensors").unlink(),
            "model-00001.safetensors: no such file",
        ),
        ("shards", change_json("model.safetensors.index.json", "weight_map", {"x": "../x.safetensors"}), "'../x.safet"),
        ("shards", change_json("model.safetensors.index.json", "weight_map", 3), "index.json: no 'weight_map'"),
        ("openai", lambda folder: (folder / "tiny.pt").write_bytes(b"PK"), "tiny.pt: cannot be read"),
        ("openai", lambda folder: torch.save({"a": 1}, folder / "tiny.pt"), "tiny.pt: not OpenAI's format"),
        ("openai", lambda folder: (folder / "tiny.pt").unlink(), "openai: no checkpoint of Whisper"),
    ],
)
def test_what_is_damaged_is_refused_by_name(
    copy: Callable[[str], Path], form: str, edit: Callable[[Path], Any], message: str
) -> None:
    folder = copy(form)
    edit(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        read_whisper(folder)
    assert str(folder) in str(error.value)
