"""Which weights are tried and kept, with errors that are a known function of the weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from unichoir.data.manifest import Utterance
from unichoir.errors import UnichoirError
from unichoir.evaluation import tuning
from unichoir.evaluation.evaluate import Evaluation, SetScore, UtteranceScore
from unichoir.recognition.options import DecodingOptions
from unichoir.search.language_model import FusionWeights, read_weights
from unichoir.text.wer import ErrorCounts

Surface = Callable[[str, float, float, float], tuple[int, int]]
"""Word and character errors of a set, by its name, with a weight, a bonus and a penalty."""
SETS = {name: [Utterance(key="a", wav="a.wav", txt="A")] for name in ("first", "second")}


def tuned(
    monkeypatch: pytest.MonkeyPatch, surface: Surface, broken: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[tuning.Errors, list[tuple[int, int]]]:
    """Run `tune` with recognition replaced by these errors; return its result and the reported progress."""

    def score(name: str, options: DecodingOptions) -> SetScore:
        weights = options.lm_weight or 0.0, options.length_bonus or 0.0, options.oov_penalty or 0.0
        words, characters = surface(name, *weights)
        utterance = UtteranceScore(
            key=name,
            reference="",
            hypothesis="",
            words=ErrorCounts(substitutions=words, reference=1000),
            characters=ErrorCounts(deletions=characters, reference=5000),
        )
        return SetScore(name=name, options=options, utterances=(utterance,), audio_seconds=1.0, seconds=0.1)

    def evaluate(
        _: object, sets: Mapping[str, object], groups: Sequence[Sequence[DecodingOptions]], **more: Any
    ) -> Any:
        for done in range(len(sets) + 1):
            more["progress"](done, len(sets))
        assert all(options.beam_size == 7 for group in groups for options in group)
        scores = tuple(score(name, options) for name in sets for group in groups for options in group)
        return Evaluation(scores=scores, broken=broken or {})

    monkeypatch.setattr(tuning, "evaluate", evaluate)
    told: list[tuple[int, int]] = []
    errors = tuning.tune(
        lambda: pytest.fail("no recogniser is needed"),
        SETS,
        [DecodingOptions(beam_size=7)],
        progress=lambda done, total: told.append((done, total)),
    )
    return errors, told


def bowl(weight: float, bonus: float, penalty: float = 0.0) -> Surface:
    """Errors whose sum over both sets has its minimum here; each set alone has its minimum elsewhere."""

    def errors(name: str, w: float, b: float, p: float) -> tuple[int, int]:
        aside = 0.3 if name == "first" else -0.3
        return round(1000 * (w - weight + aside) ** 2 + 100 * (b - bonus - aside) ** 2 + (p - penalty) ** 2), 0

    return errors


@pytest.mark.parametrize(("weight", "bonus"), [(0.5, 1.5), (0.6, 2.0), (0.3, -0.5), (0.9, 0.5), (1.3, 3.0)])
def test_the_fewest_errors_over_all_sets_are_found(
    monkeypatch: pytest.MonkeyPatch, weight: float, bonus: float
) -> None:
    errors, _ = tuned(monkeypatch, bowl(weight, bonus))
    best, (words, characters) = next(iter(errors.items()))
    assert best == FusionWeights(lm_weight=weight, length_bonus=bonus)
    expected = [bowl(weight, bonus)(name, weight, bonus, 0.0)[0] for name in SETS]
    assert (words.errors, words.reference, characters.reference) == (sum(expected), 2000, 10000)
    counts = [words.errors for words, _ in errors.values()]
    assert counts == sorted(counts)


def test_without_a_language_model_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, _ = tuned(monkeypatch, bowl(0.0, 0.0))
    assert [weights for weights in errors if weights.lm_weight == 0] == [FusionWeights(lm_weight=0, length_bonus=0)]
    assert next(iter(errors)) == FusionWeights(lm_weight=0, length_bonus=0)
    assert FusionWeights(lm_weight=0.1, length_bonus=-0.5) in errors


@pytest.mark.parametrize(
    ("surface", "best"),
    [
        (lambda name, w, b, p: (5, 5), (0.0, 0.0)),
        (lambda name, w, b, p: (5 + (w < 0.35), 5), (0.4, 0.0)),
        (lambda name, w, b, p: (5, 9 - 4 * (w == 1.0 and b == 2.0)), (1.0, 2.0)),
    ],
    ids=["nothing helps", "the smallest that helps", "characters decide"],
)
def test_ties(monkeypatch: pytest.MonkeyPatch, surface: Surface, best: tuple[float, float]) -> None:
    errors, _ = tuned(monkeypatch, surface)
    assert next(iter(errors)) == FusionWeights(lm_weight=best[0], length_bonus=best[1])


def test_progress_goes_on_over_both_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = tuned(monkeypatch, bowl(0.5, 1.0))
    assert told == [(done, 6) for done in (0, 1, 2, 2, 3, 4, 4, 5, 6)]


def test_penalties_for_unknown_words_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, _ = tuned(monkeypatch, bowl(0.5, 1.5, 3.9))
    assert next(iter(errors)) == FusionWeights(lm_weight=0.5, length_bonus=1.5, oov_penalty=4.0)
    tried = [weights for weights in errors if weights.oov_penalty]
    assert {(weights.lm_weight, weights.length_bonus) for weights in tried} == {(0.5, 1.5)}
    _, told = tuned(monkeypatch, bowl(0.0, 0.0))  # no model, and so no penalties
    assert told[-1] == (6, 6)


def test_what_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnichoirError, match="second: a: it is gone"):
        tuned(monkeypatch, bowl(0.5, 1.0), {"second": {"a": "it is gone"}})


def test_weights_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    lm, mode = str(tmp_path / "lm.arpa"), "attention_rescoring"
    best = FusionWeights(lm_weight=0.5, length_bonus=1.5, oov_penalty=1.0)
    file = tuning.write_weights(lm, mode, best, {"model": "m"})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        tuning.write_weights(lm, mode, FusionWeights(), {"model": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["lm.arpa.json"]
    assert file.read_bytes() == before


def test_each_mode_keeps_its_weights(tmp_path: Path) -> None:
    lm = str(tmp_path / "lm.bin")
    one, two = (FusionWeights(lm_weight=weight, length_bonus=0.5, oov_penalty=2.0) for weight in (0.3, 0.7))
    tuning.write_weights(lm, "attention_rescoring", FusionWeights(), {})
    tuning.write_weights(lm, "ctc_prefix_beam_search", two, {"model": "m"})
    tuning.write_weights(lm, "attention_rescoring", one, {})
    assert read_weights(lm) == {"attention_rescoring": one, "ctc_prefix_beam_search": two}
