"""Calibrated models: frames and tokens are counted independently, from the routers' input and CTC's output."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unichoir.benchmark.calibrate import (
    BLANK_SHARE,
    LOGIT_SPREAD,
    TRAINED_SHARES,
    Calibration,
    build_model,
    calibrate,
    target_shares,
)
from unichoir.benchmark.plan import Candidate
from unichoir.errors import CheckpointError
from unichoir.network.asr_model import AsrModel
from unichoir.network.router import Router

Floats = NDArray[np.float32]


def count_shares(model: AsrModel, feats: Floats) -> dict[str, list[float]]:
    """Count, for each encoder router, how often each expert has one of the two largest logits, in plain loops."""
    inputs: dict[str, Floats] = {}
    for name, module in model.named_modules():
        if isinstance(module, Router):
            module.register_forward_hook(
                lambda router, args, _, name=name: inputs.update({name: (args[0], router.gate.weight)})
            )
    with torch.inference_mode():
        model.encoder(torch.from_numpy(feats)[None], torch.tensor([len(feats)]))
    shares = {}
    for name, (x, weight) in inputs.items():
        counts = [0] * len(weight)
        for logits in x.numpy() @ weight.detach().numpy().T:
            for expert in sorted(range(len(logits)), key=lambda e, logits=logits: -logits[e])[:2]:
                counts[expert] += 1
        shares[name] = [count / sum(counts) for count in counts]
    return shares


@pytest.fixture(scope="module")
def candidate(tiny: Callable[..., Candidate]) -> Candidate:
    return tiny(experts=8, num_blocks=2)


@pytest.fixture(scope="module")
def calibrated(candidate: Candidate, feats: Floats) -> tuple[AsrModel, Calibration]:
    model = build_model(candidate.model)
    return model, calibrate(model, feats)


def test_experts_are_used_as_unevenly_as_those_of_a_trained_model(
    calibrated: tuple[AsrModel, Calibration], feats: Floats
) -> None:
    shares = count_shares(calibrated[0], feats)
    assert len(shares) == 4
    for each in shares.values():
        assert sorted(each, reverse=True) == pytest.approx(TRAINED_SHARES, abs=0.015)
    assert len({int(np.argmax(each)) for each in shares.values()}) > 1


def test_reported_shares_are_those_counted(calibrated: tuple[AsrModel, Calibration], feats: Floats) -> None:
    model, calibration = calibrated
    for name, each in count_shares(model, feats).items():
        assert calibration.shares[name.removesuffix(".router")] == pytest.approx(each, abs=0.005)
    assert set(calibration.shares) >= {"left_decoder.blocks.0.feed_forward", "right_decoder.blocks.0.feed_forward"}
    for each in calibration.shares.values():
        assert sorted(each, reverse=True) == pytest.approx(TRAINED_SHARES, abs=0.015)


def test_uniform_routers_use_all_experts_alike(
    candidate: Candidate, calibrated: tuple[AsrModel, Calibration], feats: Floats
) -> None:
    model, routers = build_model(candidate.model), calibrated[1].uniform_routers
    calibrated[1].apply(model)
    for name, weight in routers.items():
        model.get_submodule(name).router.gate.weight.data.copy_(torch.from_numpy(weight))
    shares = count_shares(model, feats)
    assert len(shares) == len(routers) == 4
    for each in shares.values():
        assert each == pytest.approx([1 / 8] * 8, abs=0.015)


def test_ctc_is_as_sure_as_a_trained_model(calibrated: tuple[AsrModel, Calibration], feats: Floats) -> None:
    model, _ = calibrated
    with torch.inference_mode():
        encoder_out, _, _ = model.encoder(torch.from_numpy(feats)[None], torch.tensor([len(feats)]))
        logits = model.ctc.ctc_lo(encoder_out)[0]
    assert (logits.argmax(dim=1) == 0).float().mean() == pytest.approx(BLANK_SHARE, abs=0.01)
    assert float(logits[:, 1:].std()) == pytest.approx(LOGIT_SPREAD, rel=0.1)


def test_a_saved_calibration_gives_the_same_model(
    candidate: Candidate, calibrated: tuple[AsrModel, Calibration], feats: Floats, tmp_path: Path
) -> None:
    calibrated[1].save(tmp_path / "a.npz")
    model, calibration = build_model(candidate.model), Calibration.load(tmp_path / "a.npz")
    calibration.apply(model)
    for name, tensor in calibrated[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert calibration.shares == calibrated[1].shares
    assert calibration.uniform_routers.keys() == calibrated[1].uniform_routers.keys()


def test_dense_models_have_their_ctc_calibrated_only(tiny: Callable[..., Candidate], feats: Floats) -> None:
    calibration = calibrate(build_model(tiny(experts=0).model), feats)
    assert not calibration.routers
    assert not calibration.shares
    assert calibration.ctc_scale > 1


def test_a_damaged_calibration_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"a\.npz"):
        Calibration.load(tmp_path / "a.npz")


def test_shares_are_stretched_to_any_number_of_experts() -> None:
    assert target_shares((0.5, 0.3, 0.2), 3) == pytest.approx([0.5, 0.3, 0.2])
    shares = target_shares((0.5, 0.3, 0.2), 6)
    assert shares.sum() == pytest.approx(1)
    assert list(shares) == sorted(shares, reverse=True)
    assert shares.reshape(3, 2).sum(axis=1) == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert target_shares(None, 5) == pytest.approx([0.2] * 5)
