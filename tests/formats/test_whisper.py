"""Whisper's checkpoints become ours: the same from each format, with CTranslate2's encoder outputs and the logits of
OpenAI's formulas."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.formats import whisper_reference as reference
from tests.formats.whisper_reference import DIM, random_weights, vocabulary
from torch import Tensor

from unichoir.errors import CheckpointError, ConfigError
from unichoir.export.checkpoint import load_any_checkpoint
from unichoir.export.whisper import import_whisper
from unichoir.formats.whisper.to_network import WhisperOptions, evenly_spaced
from unichoir.formats.whisper.tokens import map_tokens
from unichoir.formats.whisper.vocabulary import byte_level
from unichoir.text.tokenizer import BpeTokenizer, CharTokenizer

TOKENS = ["<blank>", "<unk>", "<sos/eos>", "▁THE", "▁CAT", "▁CATS", "HE", "'S", "▁"]


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    BpeTokenizer(TOKENS, None).save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("form", ["huggingface", "shards", "ctranslate2"])
def test_every_format_gives_the_same_checkpoint(
    folders: dict[str, Path], pieces: Path, tmp_path: Path, form: str
) -> None:
    for name in ("openai", form):
        import_whisper(folders[name], tmp_path / f"from_{name}", pieces, WhisperOptions())
    expected, found = (load_file(tmp_path / f"from_{name}" / "model.safetensors") for name in ("openai", form))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


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
