"""The model card of a model that was derived from another one."""

from collections.abc import Mapping
from pathlib import Path

from unichoir.bundle.card import Card
from unichoir.network.config import ModelConfig
from unichoir.network.facts import model_facts


def derived_card(
    source: Path, target: Path, config: ModelConfig, how: str, facts: Mapping[str, str] | None = None
) -> Card:
    """Return the card of `source`, updated for the model in `target`.

    config: the new model's configuration; how: a description of how it was made; facts: further facts. Results are kept
    and attributed to the original model. Raises ConfigError for an unreadable card.
    """
    card = Card.read(source, target.resolve().name)
    card.carry_over(how)
    card.state_model({**model_facts(config), **(facts or {}), "made by": how})
    return card
