"""Whisper's checkpoints become ours: the same from each format, with CTranslate2's encoder outputs and the logits of
OpenAI's formulas; what is damaged or foreign is refused by name."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.formats import whisper_reference as reference
from tests.formats.whisper_reference import DIM, random_weights, vocabulary
from torch import Tensor

from unichoir.errors import CheckpointError, ConfigError
from unichoir.export.checkpoint import load_any_checkpoint
from unichoir.export.whisper import import_whisper
from unichoir.formats.whisper.read import read_whisper
from unichoir.formats.whisper.to_network import WhisperOptions, evenly_spaced
from unichoir.formats.whisper.tokens import map_tokens
from unichoir.formats.whisper.vocabulary import byte_level, read_vocabulary
from unichoir.text.tokenizer import BpeTokenizer, CharTokenizer

TOKENS = ["<blank>", "<unk>", "<sos/eos>", "▁THE", "▁CAT", "▁CATS", "HE", "'S", "▁"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in each format."""
    folder, state = tmp_path_factory.mktemp("whisper"), random_weights()
    written = {
        "openai": reference.write_openai(folder / "openai", state).parent,
        "huggingface": reference.write_huggingface(folder / "huggingface", state),
        "shards": reference.write_huggingface(folder / "shards", state, shards=3),
        "ctranslate2": reference.write_ctranslate2(folder / "ctranslate2", state),
    }
    for each in written.values():
        (each / "vocabulary.json").write_text(json.dumps(vocabulary()))
    return written


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    BpeTokenizer(TOKENS, None).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


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


@pytest.mark.parametrize("form", ["huggingface", "shards", "ctranslate2"])
def test_every_format_gives_the_same_checkpoint(
    folders: dict[str, Path], pieces: Path, tmp_path: Path, form: str
) -> None:
    for name in ("openai", form):
        import_whisper(folders[name], tmp_path / f"from_{name}", pieces, WhisperOptions())
    expected, found = (load_file(tmp_path / f"from_{name}" / "model.safetensors") for name in ("openai", form))
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


def test_the_encoder_equals_ctranslate2s(folders: dict[str, Path], tmp_path: Path) -> None:
    """For a whole window of 30 s; the last frame sees what follows 30 s, which is padded otherwise there."""
    import ctranslate2

    import_whisper(folders["openai"], tmp_path / "ours", None, WhisperOptions(top_blocks=0))
    feats = np.random.default_rng(0).normal(0, 0.5, (1, 3000, 80)).astype(np.float32)
    theirs = ctranslate2.models.Whisper(str(folders["ctranslate2"]), compute_type="float32", intra_threads=1)
    expected = np.array(theirs.encode(ctranslate2.StorageView.from_array(feats.transpose(0, 2, 1).copy())))
    ours = encode(tmp_path / "ours", torch.from_numpy(feats))
    assert ours.shape == expected.shape == (1, 1500, DIM)
    np.testing.assert_allclose(ours[:, :-1], expected[:, :-1], atol=1e-3)


def encode(checkpoint: Path, feats: Tensor) -> Tensor:
    """Encode with two frames of zeros before the utterance (`lead_frames`) and one after it."""
    from unichoir.configuration import from_mapping
    from unichoir.network.config import ModelConfig
    from unichoir.network.encoder import Encoder

    config = from_mapping(ModelConfig, yaml.safe_load((checkpoint / "config.yaml").read_text())["model"], "model")
    encoder = Encoder(config.encoder).eval()
    weights = load_file(checkpoint / "model.safetensors")
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in weights.items()})
    feats = torch.nn.functional.pad(feats, (0, 0, 2, 1))
    with torch.inference_mode():
        encoder_out, _, _ = encoder(feats, torch.tensor([feats.shape[1]]))
    return encoder_out


@pytest.mark.parametrize(
    ("decoder", "blocks", "kept"),
    [("left_decoder", None, [0, 1, 2]), ("left_decoder", 2, [0, 2]), ("right_decoder", None, [0, 2])],
)
def test_the_decoders_compute_openais_formulas(
    folders: dict[str, Path], pieces: Path, tmp_path: Path, decoder: str, blocks: int | None, kept: list[int]
) -> None:
    """On our tokens, with the mean of the embeddings of Whisper's that spell them, from <|startofprev|> on."""
    state = random_weights()
    lines = import_whisper(folders["huggingface"], tmp_path / "ours", pieces, WhisperOptions(decoder_blocks=blocks))
    assert lines[0].startswith("5 of 6 pieces are also Whisper tokens")
    model, fbank = load_any_checkpoint(tmp_path / "ours")
    assert (fbank.num_mel_bins, fbank.lead_frames) == (80, 2)
    table, ids = state["decoder.token_embedding.weight"], {token: i for i, token in enumerate(vocabulary())}
    spelled = [["Ġthe"], ["Ġcat"], ["Ġcat", "s"], ["he"], ["'s"], ["Ġ"]]
    rows = torch.stack([table[[ids[token] for token in piece]].mean(0) for piece in spelled])
    before, after = table[ids["<|startofprev|>"]], table[ids["<|endoftext|>"]]
    memory = torch.randn(1, 7, DIM, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[2, 3, 5, 6, 8, 4, 7]])
    x = torch.stack([before, *rows[tokens[0, 1:] - 3]]) + state["decoder.positional_embedding"][:7]
    names = {f"decoder.blocks.{block}.": f"decoder.blocks.{i}." for i, block in enumerate(kept)}
    reduced = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.blocks.")}
    for old, new in names.items():
        reduced |= {new + name.removeprefix(old): tensor for name, tensor in state.items() if name.startswith(old)}
    out = reference.decoder_logits(reduced, memory[0], x)
    ours = getattr(model, decoder)
    with torch.inference_mode():
        logits = ours(memory, torch.tensor([7]), tokens, torch.tensor([7]))[0]
    torch.testing.assert_close(logits[:, 2:], out @ torch.stack([after, *rows]).T, atol=1e-4, rtol=1e-4)
    mean = table[: len(vocabulary()) - 5].mean(0)
    torch.testing.assert_close(logits[:, :2], (out @ mean).unsqueeze(1).expand(-1, 2), atol=1e-4, rtol=1e-4)


def test_a_vocabulary_with_small_letters_is_looked_up_as_it_is(pieces: Path) -> None:
    ids = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = BpeTokenizer(
        ["<blank>", "<unk>", "<sos>", "<eos>", "<|en|>", "<|fr|>", "▁The", "▁a", "é", "<0x41>"], None
    )
    mapping = map_tokens(tokenizer, ids)
    assert mapping.inputs[2:] == tuple(
        (ids[token],) if token else ()
        for token in ("<|startofprev|>", "<|endoftext|>", "<|en|>", "", "ĠThe", "Ġa", "Ã©", "A")
    )
    assert mapping.outputs == mapping.inputs
    assert (mapping.num_found, mapping.num_pieces) == (4, 4)
    assert byte_level(" é\n".encode()) == "ĠÃ©Ċ"


def test_characters_work_too(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "chars").mkdir()
    CharTokenizer([*TOKENS[:3], "▁", *"ABC"]).save(tmp_path / "chars")
    options = WhisperOptions(reverse_blocks=0, top_blocks=1)
    import_whisper(folders["openai"], tmp_path / "ours", tmp_path / "chars", options)
    model, _ = load_any_checkpoint(tmp_path / "ours")
    assert model.right_decoder is None
    assert len(model.encoder.top_blocks) == 1


def test_new_decoders_need_no_vocabulary(folders: dict[str, Path], pieces: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(folders["openai"], tmp_path / "source"))
    (source / "vocabulary.json").unlink()
    import_whisper(source, tmp_path / "ours", pieces, WhisperOptions(whisper_decoder=False, decoder_blocks=1))
    model, _ = load_any_checkpoint(tmp_path / "ours")
    assert (model.config.decoder.num_blocks, model.config.decoder.position) == (1, "sinusoidal")
    with pytest.raises(CheckpointError, match=r"source: no Whisper vocabulary .*tokenizer.json"):
        import_whisper(source, tmp_path / "other", pieces, WhisperOptions())
    assert not (tmp_path / "other").exists()


def test_new_weights_come_from_the_seed(folders: dict[str, Path], pieces: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        import_whisper(folders["openai"], tmp_path / name, pieces, WhisperOptions(seed=seed))
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    differing = {name.split(".")[1] for name in a if not torch.equal(a[name], c[name])}
    assert differing == {"top_blocks", "ctc_lo"}


def test_which_blocks_are_taken() -> None:
    assert [list(evenly_spaced(6, wanted)) for wanted in (1, 2, 4, 6)] == [
        [5],
        [2, 5],
        [0, 2, 3, 5],
        [0, 1, 2, 3, 4, 5],
    ]


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


def test_the_command(
    folders: dict[str, Path], pieces: Path, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    source, out = str(folders["ctranslate2"]), tmp_path / "out"
    code, _, errors = run_command("import-whisper", source, str(out), "--tokenizer", str(pieces), "--top-blocks", "1")
    assert code == 0
    assert "5 of 6 pieces are also Whisper tokens" in errors
    assert {file.name for file in out.iterdir()} == {
        "README.md", "SHA256SUMS", "config.yaml", "model.safetensors", "units.txt"
    }  # fmt: skip
    assert len(load_any_checkpoint(out)[0].encoder.top_blocks) == 1
    code, _, errors = run_command("import-whisper", source, str(out))
    assert code == 1
    assert "exists and is not an empty folder" in errors
    code, _, errors = run_command("import-whisper", source, str(tmp_path / "encoder"))
    assert code == 0
    assert "only the encoder is written" in errors
    config = yaml.safe_load((tmp_path / "encoder" / "config.yaml").read_text())
    assert config["model"]["vocab_size"] == 0
    names = load_file(tmp_path / "encoder" / "model.safetensors")
    assert all(name.startswith("encoder.") for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-merge", "--top-blocks", "1"], "--top-blocks"),
        (["--decoder", "whisper"], "--tokenizer"),
    ],
)
def test_options_that_do_not_go_together(
    folders: dict[str, Path],
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
    options: list[str],
    message: str,
) -> None:
    code, _, errors = run_command("import-whisper", str(folders["openai"]), str(tmp_path / "out"), *options)
    assert code == 2
    assert message in errors


def test_more_decoder_blocks_than_there_are(folders: dict[str, Path], pieces: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--reverse-blocks 4: Whisper's decoder has 3"):
        import_whisper(folders["openai"], tmp_path / "ours", pieces, WhisperOptions(reverse_blocks=4))
