"""An imported WeNet checkpoint can be fine-tuned, upcycled, quantised and served like any other."""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tests.audio.kaldi import kaldi_mfcc
from tests.cli.test_upcycle import wenet_dense
from tests.formats.wenet_checkpoints import edit
from tests.formats.wenet_reference import TINY, assert_every_reference_array
from tests.samples import CLIPS
from tests.serving.harness import running, stream_texts, wenet_client
from tests.training.conftest import write_corpus

from unichoir.api import load_recognizer
from unichoir.audio.fbank import compute_fbank
from unichoir.cli.upcycle import upcycle
from unichoir.errors import ConfigError
from unichoir.export.onnx import export_onnx
from unichoir.export.wenet import export_wenet, import_wenet
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.network.checkpoint import load_checkpoint
from unichoir.text.tokenizer import load_tokenizer
from unichoir.training.config import experiment_from_mapping
from unichoir.training.trainer import train

SHERPA = {"high_freq": -400.0, "snip_edges": False}


def smaller(wenet: Path, folder: Path) -> None:
    """WeNet's checkpoint reduced to one block, one decoder and letters as tokens, which is faster to export."""
    folder.mkdir()
    conf = yaml.safe_load((wenet / "train.yaml").read_text())
    conf["encoder_conf"]["num_blocks"] = 1
    del conf["decoder_conf"]["r_num_blocks"]
    conf["model_conf"]["reverse_weight"] = 0.0
    (folder / "train.yaml").write_text(yaml.safe_dump({**conf, "decoder": "transformer"}))
    dropped = ("encoder.encoders.1.", "decoder.right_decoder.")
    weights = torch.load(wenet / "final.pt", weights_only=True)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(dropped)}
    torch.save({name.replace("left_decoder.", ""): tensor for name, tensor in kept.items()}, folder / "final.pt")
    tokens = ["<blank>", "<unk>", "<sos/eos>", *"ABCDEFGHIJKLMNOPQ"]
    (folder / "units.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(tokens)))


@pytest.fixture(scope="module")
def fine_tuned(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The average of a run of two updates that starts from a WeNet checkpoint, with sherpa-onnx's frontend."""
    folder = tmp_path_factory.mktemp("fine-tuning")
    smaller(fixtures / TINY, folder / "wenet")
    import_wenet(folder / "wenet", folder / "imported")
    sections = yaml.safe_load((folder / "imported" / "config.yaml").read_text())
    experiment = experiment_from_mapping(
        {
            "tokenizer": str(folder / "imported"),
            "init": str(folder / "imported"),
            "model": sections["model"],
            "fbank": {**sections["fbank"], **SHERPA},
            "trainer": {"max_steps": 2, "average_best": 1, "num_threads": 1, "device": "cpu"},
        },
        "experiment",
    )
    manifests = [write_corpus(folder, name, 4, seed) for seed, name in enumerate(("train", "dev"))]
    assert train(experiment, manifests[:1], manifests[1:], folder / "run").finished
    return folder / "run" / "average"


def test_fine_tuning_starts_from_its_weights(fine_tuned: Path) -> None:
    """Two updates, the first of which are small ones, move weights a little from where they were."""
    folder = fine_tuned.parent.parent
    (before, _), (after, _) = load_checkpoint(folder / "imported"), load_checkpoint(fine_tuned)
    weights = before.state_dict()
    moved = {name: float((after.state_dict()[name] - weights[name]).abs().max()) for name in weights}
    assert 0 < max(moved.values()) < 0.01
    assert moved["encoder.cmvn_mean"] == 0


def test_the_frontend_is_stored_with_every_model(fine_tuned: Path, tmp_path: Path) -> None:
    expected = {"kind": "kaldi", "lead_frames": 0, "trail_frames": 0, "sample_rate": 16000, "num_mel_bins": 80}
    expected |= {"frame_length_ms": 25.0, "frame_shift_ms": 10.0}
    expected = {**expected, "low_freq": 20.0, **SHERPA}
    for path in (fine_tuned, *fine_tuned.parent.glob("best/*")):
        assert yaml.safe_load((path / "config.yaml").read_text())["fbank"] == expected
    with pytest.raises(ConfigError, match=r"fbank\.high_freq: -400\.0"):
        export_wenet(fine_tuned, tmp_path / "theirs")


def test_quantised_and_served(fine_tuned: Path, tmp_path: Path) -> None:
    export_onnx(fine_tuned, tmp_path / "model", quantize="int8")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["weights"], config["fbank"]["high_freq"], config["fbank"]["snip_edges"]) == ("int8", -400.0, False)
    recognizer = load_recognizer(tmp_path / "model", num_threads=1)
    samples, _ = soundfile.read(fine_tuned.parent.parent / "dev0.wav", dtype="int16")

    async def talk(url: str) -> list[str]:
        async with wenet_client(url) as client:
            await client.start()
            await client.play(samples)
            return await client.end()

    with running(recognizer) as server:
        sentences = asyncio.run(talk(server.ws_url))
    assert sentences == stream_texts(recognizer, (samples / 32768).astype(np.float32))
    assert sentences


def assert_upcycled(dense: Path, folder: Path) -> None:
    import_wenet(dense, folder / "imported")
    upcycle(str(folder / "imported"), folder / "upcycled", experts=3)
    (expected, _), (found, _) = load_checkpoint(folder / "imported"), load_checkpoint(folder / "upcycled")
    assert found.config.encoder.feed_forward.num_experts == 3
    feats, lengths = torch.randn(1, 80, 80, generator=torch.Generator().manual_seed(0)) + 8, torch.tensor([80])
    with torch.no_grad():
        outputs = [model.encoder(feats, lengths)[0] for model in (expected, found)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-4)


def test_upcycled(fixtures: Path, tmp_path: Path) -> None:
    assert_upcycled(wenet_dense(fixtures / TINY, tmp_path / "dense"), tmp_path)


def test_upcycled_with_the_reference_outputs(fixtures: Path, tmp_path: Path) -> None:
    dense = fixtures / "wenet_dense"
    assert_upcycled(dense, tmp_path)
    assert_every_reference_array(load_checkpoint(tmp_path / "upcycled")[0], dense)


@torch.no_grad()
def test_a_model_of_cepstra_hears_those_of_kaldi(
    copy: Path, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    """The best token of each frame, from WeNet's weights and the features of Kaldi's own code."""
    edit(copy, "dataset_conf.feats_type", "mfcc")
    edit(copy, "dataset_conf.mfcc_conf", {"num_mel_bins": 80, "num_ceps": 80, "low_freq": 20, "high_freq": -400})
    samples, _ = soundfile.read(CLIPS[0], dtype="float32")
    feats = kaldi_mfcc(samples, 80, -400.0)
    statistics = {"mean_stat": feats.sum(0).tolist(), "var_stat": (feats.astype(float) ** 2).sum(0).tolist()}
    (copy / "global_cmvn").write_text(json.dumps({**statistics, "frame_num": len(feats)}))
    weights = torch.load(copy / "final.pt", weights_only=True)
    torch.save({name: tensor for name, tensor in weights.items() if "global_cmvn" not in name}, copy / "final.pt")
    import_wenet(copy, tmp_path / "ours")

    recognizer, model = load_recognizer(tmp_path / "ours", num_threads=1), load_wenet(copy).model
    np.testing.assert_allclose(compute_fbank(samples, recognizer.fbank_config), feats, atol=1e-2)
    out, _, _ = model.encoder(torch.from_numpy(feats)[None], torch.tensor([len(feats)]))
    best = [token for token, _ in itertools.groupby(model.ctc.log_probs(out)[0].argmax(dim=-1).tolist()) if token]
    expected = load_tokenizer(copy).decode(best)
    code, text, _ = run_command("transcribe", CLIPS[0], "--model", tmp_path / "ours", "--decoding", "ctc_greedy_search")
    assert code == 0
    assert expected
    assert text.strip() == expected
