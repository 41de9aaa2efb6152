from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unichoir.errors import ConfigError
from unichoir.training.optim import OptimConfig, build_optimizer, clip_gradient, learning_rate


@pytest.mark.parametrize("step", [1, 7, 100, 101, 5000])
def test_inverse_sqrt_is_the_transformers_schedule(step: int) -> None:
    config = OptimConfig(learning_rate=0.002, warmup_steps=100, schedule="inverse_sqrt")
    transformer = 0.002 * 100**0.5 * min(step**-0.5, step * 100**-1.5)
    assert learning_rate(config, step, done=0.3) == pytest.approx(transformer, rel=1e-12)


def test_curves_over_the_planned_training() -> None:
    def rate(schedule: Any, step: int, done: float, final: float = 0.0) -> float:
        config = OptimConfig(learning_rate=1.0, warmup_steps=10, schedule=schedule, final_fraction=final)
        return learning_rate(config, step, done)

    assert rate("constant", 3, 0.9) == pytest.approx(0.3)
    assert rate("linear", 50, 0.25) == pytest.approx(0.75)
    assert rate("linear", 5, 0.5) == pytest.approx(0.25)
    assert rate("cosine", 50, 1 / 3) == pytest.approx(0.75)
    assert rate("cosine", 50, 1.0, final=0.1) == pytest.approx(0.1)
    assert rate("linear", 50, 1.5) == 0.0


def test_biases_and_norms_do_not_decay() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 2), nn.LayerNorm(2)
            self.expert_bias = nn.Parameter(torch.zeros(4, 2))
            self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)

    layer = Layer()
    decayed, free = build_optimizer(layer, OptimConfig(weight_decay=0.1)).param_groups
    assert [id(p) for p in decayed["params"]] == [id(layer.linear.weight)]
    assert {id(p) for p in free["params"]} == {
        id(p) for p in (layer.linear.bias, layer.norm.weight, layer.norm.bias, layer.expert_bias)
    }
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_clipping_scales_the_whole_gradient() -> None:
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=tuple(p.shape)).astype(np.float32) for p in parameters]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    for largest, scale in ((0.5, 0.5 / norm), (100.0, 1.0), (0.0, 1.0)):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        assert clip_gradient(parameters, largest).item() == pytest.approx(norm, rel=1e-5)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            np.testing.assert_allclose(parameter.grad, gradient * scale, rtol=1e-5)


def test_nonsense_is_refused() -> None:
    for name, value in (("learning_rate", 0.0), ("betas", (0.9, 1.0)), ("final_fraction", 2.0), ("grad_clip", -1.0)):
        with pytest.raises(ConfigError, match=name):
            OptimConfig(**{name: value})  # type: ignore[arg-type]
