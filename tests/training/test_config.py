from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from unichoir.configuration import to_mapping
from unichoir.errors import ConfigError
from unichoir.network.config import NAMED_CONFIGS
from unichoir.training.config import (
    ExperimentConfig,
    TrainerConfig,
    experiment_from_mapping,
    first_difference,
    load_experiment,
)

SHORT = {"tokenizer": "t", "trainer": {"max_steps": 10}}


def test_named_model_with_changes() -> None:
    assert experiment_from_mapping({**SHORT, "model": "moe-tiny"}, "x").model == NAMED_CONFIGS["moe-tiny"]
    changed = experiment_from_mapping({**SHORT, "model": {"name": "moe-tiny", "encoder": {"dropout": 0.3}}}, "x").model
    named = to_mapping(NAMED_CONFIGS["moe-tiny"])
    named["encoder"]["dropout"] = 0.3
    assert to_mapping(changed) == named


def test_survives_yaml(experiment: Callable[..., ExperimentConfig], tmp_path: Path) -> None:
    config = experiment()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_mapping(config)))
    assert load_experiment(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "moe-huge"}, "x: model: unknown name 'moe-huge'"),
        ({"model": {"name": "moe-tiny", "encoder": {"dims": 3}}}, "x: model: encoder: unknown key 'dims'"),
        ({"trainer": {}}, "one of max_epochs and max_steps"),
        ({"trainer": {"max_steps": 0}}, "max_steps must be at least 1"),
        ({"trainer": {"max_steps": 1, "keep_best": 2, "average_best": 3}}, "average_best"),
        ({"optim": {"lr": 1.0}}, "x: optim: unknown key 'lr'"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment_from_mapping({**SHORT, "model": "moe-tiny", **change}, "x")


def test_training_by_ctc_alone_has_to_leave_out_the_decoders(experiment: Callable[..., ExperimentConfig]) -> None:
    both = {"left_decoder": 0.0, "right_decoder": 0.0}
    assert experiment(model={"ctc_weight": 1.0}, optim={"rates": both}).model.ctc_weight == 1
    message = "ctc_weight 1 trains no decoder: set optim.rates of left_decoder and right_decoder to 0"
    for rates in ({}, {"left_decoder": 0.0}, {"right_decoder": 0.0}, {**both, "left_decoder": 0.1}):
        with pytest.raises(ConfigError, match=message):
            experiment(model={"ctc_weight": 1.0}, optim={"rates": rates})
    one_sided = {**to_mapping(experiment().model), "ctc_weight": 1.0, "reverse_weight": 0.0}
    one_sided["decoder"]["num_reverse_blocks"] = 0
    experiment(model=one_sided, optim={"rates": {"left_decoder": 0.0}})
    with pytest.raises(ConfigError, match="rates of left_decoder to 0"):
        experiment(model=one_sided)


def test_first_difference(experiment: Callable[..., ExperimentConfig]) -> None:
    old = experiment()
    assert first_difference(old, experiment(trainer={"num_workers": 3, "max_minutes": 1.0})) is None
    assert (
        first_difference(old, experiment(optim={"betas": [0.9, 0.9]}))
        == "optim.betas (was [0.9, 0.98], now [0.9, 0.9])"
    )


def test_trainer_defaults_are_valid() -> None:
    assert TrainerConfig(max_epochs=1).accumulate == 1
