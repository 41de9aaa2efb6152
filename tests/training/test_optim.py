from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from unichoir.configuration import to_mapping
from unichoir.data.dataset import Example, collate
from unichoir.errors import ConfigError
from unichoir.training.config import ExperimentConfig, experiment_from_mapping
from unichoir.training.feeding import BatchRequest, Loaded, Position
from unichoir.training.learner import Learner
from unichoir.training.optim import (
    OptimConfig,
    _total_norm,
    build_optimizer,
    clip_gradient,
    freeze_parts,
    learning_rate,
    rate_of,
)
from unichoir.training.setup import new_model, prepare
from unichoir.training.world import World


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_torchs(dtype: torch.dtype) -> None:
    """Of tensors of any shape and layout, scalars and empty ones too."""
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(300, 50), (7,), (), (0, 3), (2, 3, 4)]
    gradients = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    gradients.append(gradients[0].T[::2])
    expected = nn.utils.get_total_norm([gradient.double() for gradient in gradients])
    assert _total_norm(gradients).item() == pytest.approx(expected.item(), rel=1e-5)


def test_nonsense_is_refused() -> None:
    for name, value in (("learning_rate", 0.0), ("betas", (0.9, 1.0)), ("final_fraction", 2.0), ("grad_clip", -1.0)):
        with pytest.raises(ConfigError, match=name):
            OptimConfig(**{name: value})  # type: ignore[arg-type]


RATES = {"encoder": 0.5, "encoder.blocks.0": 0.0, "encoder.blocks.0.norm_ff": 0.25, "left_decoder": 0.1}


def test_the_longest_beginning_counts() -> None:
    config = OptimConfig(rates=RATES)
    for name, rate in (
        ("encoder.after_norm.weight", 0.5),
        ("encoder.blocks.1.norm_ff.weight", 0.5),
        ("encoder.blocks.0.self_attn.linear_q.weight", 0.0),
        ("encoder.blocks.0.norm_ff.weight", 0.25),
        ("encoder.blocks.0.norm_ff_macaron.weight", 0.0),  # whole words
        ("left_decoder.embedding.weight", 0.1),
        ("ctc.ctc_lo.weight", 1.0),
    ):
        assert rate_of(config, name) == rate


def test_parts_learn_at_their_own_rates(
    experiment: Callable[..., ExperimentConfig], corpus: Path, tmp_path: Path, world: World
) -> None:
    """The first step of AdamW without decay is the learning rate times the gradient's sign, to eps."""
    experts = {"hidden_dim": 16, "num_experts": 3, "balance_rate": 0.1}
    model = to_mapping(experiment().model)
    model["encoder"]["feed_forward"] = experts
    optim = {"learning_rate": 1e-3, "warmup_steps": 0, "weight_decay": 0.0, "rates": RATES, "schedule": "constant"}
    config = experiment(optim=optim, model=model)
    setup = prepare(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"])
    (window,) = setup.corpus.windows(0, 0)
    read = [setup.train.reader.read(each, 0) for each in window.utterances[:4]]
    batch = collate([each for each in read if isinstance(each, Example)])
    learner = Learner(new_model(setup, tmp_path, print, world), setup.config, world)
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    request = BatchRequest(epoch=0, window=0, batch=0, utterances=(), after=Position(batch=1))
    learner.update([Loaded(request=request, batch=batch, skipped={})], len(batch.keys), step=1, done=0.0)
    checked = set()
    for name, parameter in learner.model.named_parameters():
        moved = float((parameter.detach() - before[name]).abs().max())
        rate = rate_of(config.optim, name)
        if rate == 0:
            assert parameter.grad is None
            assert moved == 0
        elif float(parameter.grad.abs().max()) > 1e-5:  # far above eps; a key's bias has none
            checked.add(rate)
            assert moved == pytest.approx(1e-3 * rate, rel=0.02), name
    assert checked == {0.1, 0.25, 0.5, 1.0}
    after = learner.model.state_dict()
    frozen = [name for name in before if rate_of(config.optim, name) == 0]
    assert any(name.endswith("balance_bias") for name in frozen)
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    balanced = [name for name in before if name.endswith("balance_bias") and name not in frozen]
    assert any(not torch.equal(after[name], before[name]) for name in balanced)


def test_rates_of_parts_that_are_not_there(experiment: Callable[..., ExperimentConfig]) -> None:
    layers = nn.ModuleDict({"lower": nn.Linear(2, 2), "upper": nn.Linear(2, 2)})
    freeze_parts(layers, OptimConfig(rates={"lower.weight": 0.0, "upper": 0.3}))
    assert [parameter.requires_grad for parameter in layers.parameters()] == [False, True, True, True]
    for part in ("low", "lower.weight.0", "middle"):
        with pytest.raises(ConfigError, match=rf"optim\.rates: no weight of the model begins with '{part}'"):
            freeze_parts(layers, OptimConfig(rates={part: 0.5}))
    with pytest.raises(ConfigError, match="every weight of the model has a rate of 0"):
        freeze_parts(layers, OptimConfig(rates={"lower": 0.0, "upper": 0.0}))
    for rate in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="rates: upper must be a number of at least 0"):
            OptimConfig(rates={"upper": rate})


def test_rates_survive_yaml(experiment: Callable[..., ExperimentConfig]) -> None:
    config = experiment(optim={"rates": RATES})
    assert experiment_from_mapping(yaml.safe_load(yaml.safe_dump(to_mapping(config))), "again") == config
    with pytest.raises(ConfigError, match="optim: rates: encoder: expected float, found 'fast'"):
        experiment(optim={"rates": {"encoder": "fast"}})
    with pytest.raises(ConfigError, match="optim: rates: "):
        experiment(optim={"rates": [0.1]})
