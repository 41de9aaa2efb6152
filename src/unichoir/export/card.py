"""The card of a model that was made from another one."""

from collections.abc import Mapping
from pathlib import Path

from unichoir.bundle.card import Card
from unichoir.network.config import ModelConfig
from unichoir.network.facts import model_facts


def derived_card(
    source: Path, target: Path, config: ModelConfig, how: str, facts: Mapping[str, str] | None = None
) -> Card:
    """The card of `source`, brought up to date for the model in `target`.

    config: the new model's; how: in words, how it was made; facts: more about it. Results are kept as those of the
    model it was made from. Raises ConfigError for a card that cannot be read.
    """
    card = Card.read(source, target.resolve().name)
    card.carry_over(how)
    card.state_model({**model_facts(config), **(facts or {}), "made by": how})
    return card
