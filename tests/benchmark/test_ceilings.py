"""Which ways to multiply count as the machine's own rate."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unichoir import native
from unichoir.benchmark import ceilings
from unichoir.benchmark.ceilings import KERNELS, WAYS, Ceilings, CeilingsWorker, Product, Rate, measure
from unichoir.saturation import saturates


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "FRAMES", 16)
    monkeypatch.setattr(ceilings, "OUTPUTS", 64)
    monkeypatch.setattr(ceilings, "READ_BYTES", 1 << 16)
    monkeypatch.setattr(ceilings, "_REPEATS", 2)


def in_64_bits(frames: NDArray[np.uint8], weights: NDArray[np.int8], threads: int) -> Product:
    return lambda: frames.astype(np.int64) @ weights.astype(np.int64)


def in_16_bits(frames: NDArray[np.uint8], weights: NDArray[np.int8], threads: int) -> Product:
    """Adds pairs of products as x86's vpmaddubsw does."""

    def product() -> NDArray[Any]:
        pairs = frames.astype(np.int64)[:, :, None] * weights.astype(np.int64)
        return (pairs[:, ::2] + pairs[:, 1::2]).clip(-(2**15), 2**15 - 1).sum(1)

    return product


def test_a_product_that_saturates_is_not_exact() -> None:
    assert measure("right", in_64_bits, 1).exact
    assert not measure("wrong", in_16_bits, 1).exact


def test_the_fastest_exact_way_counts() -> None:
    slow, fast = (Rate(way=name, per_second=each, exact=True) for name, each in (("slow", 1.0), ("fast", 2.0)))
    wrong = Rate(way="wrong", per_second=3.0, exact=False)
    assert Ceilings(bandwidth=1.0, rates={"int8": [slow, wrong, fast]}).product("int8") == fast


def test_the_ways_of_this_machine() -> None:
    found = CeilingsWorker(threads=1).run()
    exact = {rate.way: rate.exact for rates in found.rates.values() for rate in rates if rate.way != "ONNX Runtime"}
    kernels = {KERNELS: True} if native.library() else {}
    assert exact == {"PyTorch": True, "ONNX Runtime, x64quantprecision": True} | kernels
    assert [rate.exact for rate in found.rates["fp32"]] == [True, True]
    assert found.rates["int8"][0].exact != saturates()
    assert {name: [rate.way for rate in rates] for name, rates in found.rates.items()} == {
        name: [way for way in ways if way != KERNELS or kernels] for name, ways in WAYS.items()
    }
    assert found.bandwidth > 0
