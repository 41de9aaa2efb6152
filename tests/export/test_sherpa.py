"""sherpa-onnx loads exported models and recognises the same as unichoir's greedy CTC search on the same features."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import onnx
import pytest
import torch
from tests.samples import CLIPS

from unichoir.api import load_recognizer
from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import load_audio
from unichoir.errors import CheckpointError
from unichoir.export.quantize import LARGEST_ANYWHERE, quantize_model
from unichoir.export.sherpa import SHERPA_FBANK, export_sherpa
from unichoir.export.sherpa_parity import check_offline, check_streaming
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint, save_checkpoint
from unichoir.network.config import EncoderConfig, FeedForwardConfig
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.greedy import ctc_greedy_search
from unichoir.text.tokenizer import load_tokenizer
from unichoir.text.wer import align, count_errors

REPOSITORY = Path(__file__).resolve().parents[2]
LISTENER = Path(__file__).with_name("sherpa_listener.py")
CHUNK, LEFT = 16, 4
ENCODERS: dict[str, dict[str, Any]] = {
    "int8": {},
    "conv2d6": {"subsampling": 6, "position": "absolute_key"},
    "transformer": {"subsampling": 8, "block": "transformer", "position": "absolute"},
}
"""How the encoder of each exported model differs from that of `tiny_checkpoint`."""


def variant(tiny_checkpoint: Path, folder: Path, kind: str) -> Path:
    """`tiny_checkpoint` for audio as `loud` makes it; the weights of WeNet's positions are large enough to matter."""
    model, sections = load_checkpoint(tiny_checkpoint)
    encoder = dataclasses.replace(model.config.encoder, **ENCODERS[kind])
    torch.manual_seed(2)
    changed = AsrModel(dataclasses.replace(model.config, encoder=encoder)).eval()
    own = changed.state_dict()
    fitting = {name: each for name, each in model.state_dict().items() if name in own and own[name].shape == each.shape}
    missing, unexpected = changed.load_state_dict(fitting, strict=False)
    assert unexpected == []
    with torch.no_grad():
        for name in missing:
            if ".self_attn." in name:
                dict(changed.named_parameters())[name].normal_(std=0.5)
        changed.encoder.cmvn_mean.fill_(32.0)
        if "subsampling" in ENCODERS[kind]:
            # As in `tiny_checkpoint`: without the mean of all frames, each decides on a letter of its own.
            feats = torch.from_numpy(compute_fbank(loud(load_audio(CLIPS[0], sample_rate=16000)), SHERPA_FBANK))
            encoder_out, _, _ = changed.encoder(feats[None], torch.tensor([len(feats)]))
            changed.ctc.ctc_lo.bias.copy_(-changed.ctc.ctc_lo.weight @ encoder_out[0].mean(dim=0))
    load_tokenizer(tiny_checkpoint).save(folder)
    save_checkpoint(folder, changed, sections)
    return folder


@dataclasses.dataclass
class Exported:
    """The files of a checkpoint for sherpa-onnx, and how it recognises with sherpa-onnx's features."""

    directory: Path
    encoder: EncoderConfig
    recognizer: Recognizer
    notes: list[str]


@pytest.fixture(scope="module", params=ENCODERS)
def exported(
    request: pytest.FixtureRequest,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    folder = tmp_path_factory.mktemp("sherpa")
    source = variant(tiny_checkpoint, folder / "checkpoint", request.param)
    directory = folder / request.param
    quantize = "int8" if request.param == "int8" else None
    done = export_sherpa(source, directory, quantize=quantize)
    recognizer = load_recognizer(source, num_threads=1)
    if quantize:
        quantize_model(recognizer.backend.model, LARGEST_ANYWHERE)
    ours = Recognizer(recognizer.backend, recognizer.tokenizer, FbankConfig(high_freq=-400.0, snip_edges=False))
    return Exported(directory, load_checkpoint(source)[0].config.encoder, ours, done.notes)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [loud(load_audio(path, sample_rate=16000)) for path in CLIPS[:3]]


def loud(samples: np.ndarray) -> np.ndarray:
    """Recordings so large, nowhere silent, that what sherpa-onnx adds offline is nothing: dither of 1 in 32768."""
    noise = np.random.default_rng(len(samples)).normal(0, 0.003, len(samples))
    return ((samples + noise) * 4096).astype(np.float32)


def listen(directory: Path, folder: Path, recordings: list[np.ndarray], streaming: bool) -> list[dict[str, Any]]:
    """Recognise recordings (N,) at 16 kHz with sherpa-onnx."""
    for number, samples in enumerate(recordings):
        samples.astype(np.float32).tofile(folder / f"{number}.raw")
    job = {
        "streaming": streaming,
        "model": str(directory / ("model-streaming.onnx" if streaming else "model.onnx")),
        "tokens": str(directory / "tokens.txt"),
        "feature_dim": 80,
        "recordings": [str(folder / f"{number}.raw") for number in range(len(recordings))],
    }
    done = subprocess.run([sys.executable, LISTENER], input=json.dumps(job), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ours(recognizer: Recognizer, samples: np.ndarray, chunk_size: int | None, frames: int | None = None) -> list[str]:
    """Return the tokens of unichoir's greedy CTC search; frames: use only so many encoder frames."""
    left = LEFT if chunk_size else -1
    options = DecodingOptions(mode="ctc_greedy_search", chunk_size=chunk_size, num_left_chunks=left)
    feats = compute_fbank(samples, recognizer.fbank_config)
    ((_, log_probs),) = recognizer.recordings.encode([feats], options)
    hyp = ctc_greedy_search(log_probs[:frames], recognizer.backend.info.blank_id)
    return [recognizer.tokenizer.tokens[token] for token in hyp.tokens]


def needed(encoder: EncoderConfig, chunks: int) -> int:
    """Return the feature frames of so many chunks, and the one frame more without which sherpa-onnx waits."""
    return encoder.subsampling_rate * (CHUNK * chunks - 1) + encoder.right_context + 2


def padded(samples: np.ndarray, encoder: EncoderConfig) -> np.ndarray:
    """With so much silence that the last chunk is whole."""
    chunks = max(-(-encoder.num_frames(SHERPA_FBANK.num_frames(len(samples))) // CHUNK), 1)
    return np.pad(samples, (0, max(needed(encoder, chunks) * 160 - len(samples), 0)))


def assert_heard(found: list[dict[str, Any]], expected: list[list[str]], most_errors: float = 0.0) -> None:
    """Assert equal tokens; most_errors: the fraction that may differ."""
    for result, tokens in zip(found, expected, strict=True):
        heard = [token.strip().replace("\u2581", "") for token in result["tokens"]]
        wanted = [token.replace("\u2581", "") for token in tokens]
        assert count_errors(align(wanted, heard)).rate <= most_errors
        # The text of sherpa-onnx begins without an apostrophe.
        assert "".join(result["text"].split()).lstrip("'") == "".join(heard).lstrip("'")
    letters = [token for tokens in expected for token in tokens]
    assert len(letters) > 15  # there was something to hear
    assert len(set(letters)) > 2


def test_offline(exported: Exported, clips: list[np.ndarray], tmp_path: Path) -> None:
    found = listen(exported.directory, tmp_path, clips, streaming=False)
    expected = [ours(exported.recognizer, samples, None) for samples in clips]
    # What is left of the dither moves some values across the border between two codes.
    assert_heard(found, expected, most_errors=0.2 if exported.directory.name == "int8" else 0.0)


def test_streaming_with_padding(exported: Exported, clips: list[np.ndarray], tmp_path: Path) -> None:
    recordings = [padded(samples, exported.encoder) for samples in clips]
    chunk = 160 * exported.encoder.subsampling_rate * CHUNK
    assert all(len(after) - len(before) <= chunk for after, before in zip(recordings, clips, strict=True))
    found = listen(exported.directory, tmp_path, recordings, streaming=True)
    assert_heard(found, [ours(exported.recognizer, samples, CHUNK) for samples in recordings])


def test_streaming_without_padding_loses_the_last_partial_chunk(
    exported: Exported, clips: list[np.ndarray], tmp_path: Path
) -> None:
    found = listen(exported.directory, tmp_path, clips, streaming=True)
    lost, expected = [], []
    for result, samples in zip(found, clips, strict=True):
        frames = SHERPA_FBANK.num_frames(len(samples))
        chunks = sum(needed(exported.encoder, number) <= frames for number in range(1, 100))
        whole = ours(exported.recognizer, samples, CHUNK)
        expected.append(ours(exported.recognizer, samples, CHUNK, chunks * CHUNK))
        lost.append(len(whole) - len(result["tokens"]))
    assert_heard(found, expected)
    assert max(lost) > 0


def test_real_speech(exported: Exported, tmp_path: Path) -> None:
    """Without the noise of `loud`."""
    paths = [REPOSITORY / "demo" / "audio" / name for name in ("digits.flac", "name.flac", "book.ogg")]
    loaded = [load_audio(path, sample_rate=16000) * np.float32(4096) for path in paths]
    recordings = [padded(samples, exported.encoder) for samples in loaded]
    found = listen(exported.directory, tmp_path, recordings, streaming=True)
    expected = [ours(exported.recognizer, samples, CHUNK) for samples in recordings]
    # The last bits of features differ, and move some values across the border between two codes.
    assert_heard(found, expected, most_errors=0.1 if exported.directory.name == "int8" else 0.0)


def test_features_are_those_of_sherpas_frontend(clips: list[np.ndarray]) -> None:
    """Its settings (sherpa-onnx/csrc/features.cc) given to the library that it uses, and the int16 scale."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.frame_opts.samp_freq = 16000
    options.frame_opts.frame_shift_ms = 10.0
    options.frame_opts.frame_length_ms = 25.0
    options.frame_opts.remove_dc_offset = True
    options.frame_opts.preemph_coeff = 0.97
    options.frame_opts.window_type = "povey"
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400
    options.mel_opts.low_freq = 20
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, (clips[0] * np.float32(32768)).tolist())
    fbank.input_finished()
    expected = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    np.testing.assert_allclose(compute_fbank(clips[0], SHERPA_FBANK), expected, atol=2e-3)
    assert np.abs(compute_fbank(clips[0], FbankConfig())[0] - expected[0]).max() > 0.1


def test_metadata_and_inputs(exported: Exported) -> None:
    model = onnx.load(exported.directory / "model-streaming.onnx")
    names = ["x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask"]
    assert [each.name for each in model.graph.input] == names
    found = {each.key: each.value for each in model.metadata_props}
    kernel, context, rate = {
        "int8": ("7", "6", "4"),
        "conv2d6": ("7", "10", "6"),
        "transformer": ("1", "14", "8"),
    }[exported.directory.name]
    wanted = {"head": "2", "num_blocks": "1", "output_size": "32", "cnn_module_kernel": kernel}
    wanted |= {"right_context": context, "subsampling_factor": rate, "subsampling_rate": rate}
    wanted |= {"vocab_size": "31", "model_type": "wenet_ctc"}
    assert wanted.items() <= found.items()
    assert [note.split(",")[0] for note in exported.notes] == [
        "this model was trained with fbank.high_freq 0.0",
        "this model was trained with fbank.snip_edges True",
    ]


def test_the_command(tiny_checkpoint: Path, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]) -> None:
    source = tmp_path / "checkpoint"
    model, sections = load_checkpoint(tiny_checkpoint)
    dense = FeedForwardConfig(hidden_dim=8)  # which has less to trace
    encoder = dataclasses.replace(model.config.encoder, conv_causal=False, feed_forward=dense)
    load_tokenizer(tiny_checkpoint).save(source)
    sections["fbank"] = {"high_freq": -400.0, "snip_edges": False}
    save_checkpoint(source, AsrModel(dataclasses.replace(model.config, encoder=encoder)), sections)
    code, _, errors = run_command("export", source, tmp_path / "out", "--target", "sherpa-onnx")
    assert code == 0
    assert "note: no streaming file: the model's convolution is not causal" in errors
    assert "trained with" not in errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "tokens.txt"]
    code, _, errors = run_command("export", source, tmp_path / "out", "--target", "sherpa-onnx")
    assert code == 1
    assert "out: exists and is not an empty folder" in errors
    code, _, errors = run_command(
        "export", source, tmp_path / "half", "--target", "sherpa-onnx", "--quantize", "float16"
    )
    assert code == 2
    assert "float16" in errors


@pytest.mark.parametrize(
    "change", [{"frame_shift_ms": 12.5}, {"low_freq": 0.0}, {"lead_frames": 2}, {"kind": "mfcc"}, {"kind": "whisper"}]
)
def test_other_frames_are_refused(tiny_checkpoint: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    model, _ = load_checkpoint(tiny_checkpoint)
    load_tokenizer(tiny_checkpoint).save(tmp_path / "checkpoint")
    save_checkpoint(tmp_path / "checkpoint", model, {"fbank": change})
    with pytest.raises(CheckpointError, match=rf"fbank\.{next(iter(change))} is"):
        export_sherpa(tmp_path / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"front": "conv1d"}, {"num_top_blocks": 1}])
def test_other_encoders_are_refused(tiny_checkpoint: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    config = load_checkpoint(tiny_checkpoint)[0].config
    encoder = dataclasses.replace(config.encoder, subsampling_channels=None, **change)
    load_tokenizer(tiny_checkpoint).save(tmp_path / "checkpoint")
    model = AsrModel(dataclasses.replace(config, encoder=encoder))
    save_checkpoint(tmp_path / "checkpoint", model, {"fbank": {}})
    ((name, value),) = change.items()
    with pytest.raises(CheckpointError, match=rf"checkpoint: model\.encoder\.{name} is {value}: sherpa-onnx"):
        export_sherpa(tmp_path / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_computes_something_else_is_refused(exported: Exported, tiny_checkpoint: Path) -> None:
    config = load_checkpoint(tiny_checkpoint)[0].config
    other = AsrModel(dataclasses.replace(config, encoder=exported.encoder)).eval()
    for check, name in ((check_offline, "model.onnx"), (check_streaming, "model-streaming.onnx")):
        with pytest.raises(CheckpointError, match=rf"{name}: differs from the model by"):
            check(other, exported.directory / name, int8=exported.directory.name == "int8")
