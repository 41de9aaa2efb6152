"""Models are prepared completely or not at all, and only once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from numpy.typing import NDArray

from unichoir.benchmark.calibrate import BLANK_SHARE, build_model
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, make_plan
from unichoir.benchmark.prepare import exchange, load_calibration, prepared_models
from unichoir.engine.backend import Floats
from unichoir.engine.onnx_backend import ENCODER_FILE, OnnxBackend
from unichoir.engine.torch_backend import TorchBackend
from unichoir.errors import CheckpointError, UnichoirError
from unichoir.export.quantize import quantize_model

INT8 = BenchmarkOptions(engines=("onnx",), precisions=("int8",), threads=1)


def prepare(candidate: Candidate, samples: Floats, root: Path | None, begins: Callable[[str], None] = print) -> Path:
    variants = list(make_plan([candidate], INT8).cells)
    with prepared_models([candidate], variants, samples, INT8, root, begins) as folders:
        return folders[candidate.name]


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Candidate], samples: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tiny(reverse_blocks=0), samples, tmp_path_factory.mktemp("models"))


def test_all_is_there_and_nothing_else(home: Path) -> None:
    assert {path.name for path in home.iterdir()} == {"calibration.npz", "int8", "int8-uniform"}
    assert [path.name for path in home.parent.iterdir()] == [home.name]


@pytest.mark.parametrize("folder", ["int8", "int8-uniform"])
def test_exported_models_compute_what_calibrated_ones_do(
    home: Path, tiny: Callable[..., Candidate], feats: Floats, folder: str
) -> None:
    model, calibration = build_model(tiny(reverse_blocks=0).model), load_calibration(home)
    calibration.apply(model)
    for name, weight in (calibration.uniform_routers if folder == "int8-uniform" else {}).items():
        model.get_submodule(name).router.gate.weight.data.copy_(torch.from_numpy(weight))
    quantize_model(model)
    expected, found = (
        engine.encode_chunk(feats[None], np.array([len(feats)]), None, 0)[0]
        for engine in (TorchBackend(model), OnnxBackend(home / folder, 1))
    )
    # Nearly everywhere: where two experts are equal but for rounding, engines may choose differently.
    assert np.quantile(np.abs(expected - found), 0.95) < 0.05


def test_what_is_there_is_used_again(home: Path, tiny: Callable[..., Candidate], samples: Floats) -> None:
    begun: list[str] = []
    assert prepare(tiny(reverse_blocks=0), samples, home.parent, begun.append) == home
    assert not begun


def test_other_settings_are_other_models(home: Path, tiny: Callable[..., Candidate], samples: Floats) -> None:
    def stop(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tiny(reverse_blocks=0), samples[::-1], home.parent, stop)
    # And what was interrupted has left nothing.
    assert [path.name for path in home.parent.iterdir()] == [home.name]


def test_what_fails_leaves_nothing(tiny: Callable[..., Candidate], tmp_path: Path) -> None:
    broken: NDArray[np.float32] = np.zeros(100, np.float32)  # no frame to calibrate with
    with pytest.raises(UnichoirError):
        prepare(tiny(experts=0, reverse_blocks=0), broken, tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_found_are_named(home: Path, tmp_path: Path) -> None:
    calibration = load_calibration(home)
    other = {name: weight + 1 for name, weight in calibration.routers.items()}
    with pytest.raises(CheckpointError, match=r"encoder\.blocks\.0\.feed_forward.* once, found them 0 times"):
        exchange(home / "int8" / ENCODER_FILE, tmp_path / ENCODER_FILE, other, calibration.uniform_routers)


def test_only_routers_are_exchanged(home: Path) -> None:
    before, after = (
        {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path / ENCODER_FILE).graph.initializer}
        for path in (home / "int8", home / "int8-uniform")
    )
    assert before.keys() == after.keys()
    assert sum(not np.array_equal(before[name], after[name]) for name in before) == 2


def test_int8_models_find_as_much_as_trained_ones(home: Path, feats: Floats) -> None:
    backend = OnnxBackend(home / "int8", 1)
    encoder_out, _, _ = backend.encode_chunk(feats[None], np.array([len(feats)]), None, 0)
    best = backend.ctc_log_probs(encoder_out)[0].argmax(axis=1)
    assert (best == backend.info.blank_id).mean() == pytest.approx(BLANK_SHARE, abs=0.01)
