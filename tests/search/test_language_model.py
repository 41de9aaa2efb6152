"""Language models in the search, against ARPA's definition applied to text, and against all alignments there are."""

import json
import math
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.errors import CheckpointError, DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.language_model import UNKNOWN_FLOOR, FusionWeights, NgramLanguageModel, weights_file
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.scoring import PrefixScorer, Scorers
from unichoir.text.ngram import train_ngram, write_arpa
from unichoir.text.tokenizer import SPECIAL_TOKENS, BpeTokenizer, CharTokenizer, Tokenizer
from unichoir.text.units import special_units

PIECES = BpeTokenizer([*SPECIAL_TOKENS, "\u2581ON", "\u2581TW", "E", "O", "\u2581", "\u2581ONE"], None)
"""ONE has two spellings of its own and more with the space alone."""
ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.3
-0.5\tONE\t-0.2
-0.6\tTWO\t-0.4
-0.7\t</s>

\\2-grams:
-0.2\t<s> ONE
-0.1\tONE TWO
-0.25\tTWO </s>

\\end\\
"""


def write(path: Path, text: str = ARPA) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def trained(path: Path, sentences: Sequence[Sequence[str]], order: int = 3) -> Path:
    with path.open("wb") as file:
        for _ in write_arpa(train_ngram(sentences, order), file):
            pass
    return path


def textbook(arpa: Path, words: Sequence[str]) -> float:
    """log10 of a sentence by the definition of ARPA files; words they do not list are <unk>."""
    entries: dict[tuple[str, ...], tuple[float, float]] = {}
    for fields in (line.split("\t") for line in arpa.read_text("utf-8").splitlines() if "\t" in line):
        entries[tuple(fields[1].split(" "))] = float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0
    order = max(map(len, entries))

    def probability(context: tuple[str, ...], word: str) -> float:
        if (*context, word) in entries:
            return entries[(*context, word)][0]
        return entries.get(context, (0.0, 0.0))[1] + probability(context[1:], word)

    known = ["<s>", *(word if (word,) in entries else "<unk>" for word in words), "</s>"]
    return sum(
        max(probability(tuple(known[max(0, place - order + 1) : place]), known[place]), UNKNOWN_FLOOR)
        for place in range(1, len(known))
    )


def weighted(
    lm_weight: float | None = None, length_bonus: float | None = None, oov: float | None = None
) -> DecodingOptions:
    return DecodingOptions(lm_weight=lm_weight, length_bonus=length_bonus, oov_penalty=oov)


def total(scorer: PrefixScorer, tokens: Sequence[int]) -> float:
    state, score = scorer.start(), 0.0
    for token in tokens:
        state, added = scorer.extend(state, token)
        score += added
    return score + scorer.finish(state)


def ids(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[int]:
    return [tokenizer.tokens.index(token) for token in tokens]


def test_by_hand(tmp_path: Path) -> None:
    scorer = NgramLanguageModel(write(tmp_path / "lm.arpa"), PIECES).scorer(weighted(0.5, 0.25))
    state, added = scorer.extend(scorer.start(), 3)  # ▁ON
    assert added == 0.0
    state, added = scorer.extend(state, 5)  # E: ONE is not complete, there may be more
    assert added == 0.0
    state, added = scorer.extend(state, 4)  # ▁TW: now it is
    assert added == pytest.approx(0.5 * -0.2 * math.log(10) + 0.25)
    state, _ = scorer.extend(state, 6)
    # TWO after ONE, and the end after TWO
    assert scorer.finish(state) == pytest.approx(0.5 * (-0.1 - 0.25) * math.log(10) + 0.25, rel=1e-6)
    # TWO after <s> backs off, ON is unknown and backs off after TWO, the end backs off after <unk>, which has no weight
    expected = (-0.3 - 0.6) + (-0.4 - 1.5) - 0.7
    assert total(scorer, ids(PIECES, ["\u2581TW", "O", "\u2581ON"])) == pytest.approx(
        0.5 * expected * math.log(10) + 2 * 0.25, rel=1e-6
    )
    assert total(scorer, []) == pytest.approx(0.5 * (-0.3 - 0.7) * math.log(10), rel=1e-6)


SENTENCES = [["ONE", "TWO", "TWO"], ["TWO", "ONE"], ["ONE", "ONE", "TWO"], ["TWO"], ["TWOE", "ONE"]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 8), max_size=9))
def test_any_tokens_are_scored_as_their_text(tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> None:
    arpa = trained(tmp_path_factory.mktemp("lm") / "lm.arpa", SENTENCES)
    words = PIECES.decode(tokens).split()
    scorer = NgramLanguageModel(arpa, PIECES).scorer(weighted(0.7, 0.3))
    expected = 0.7 * math.log(10) * textbook(arpa, words) + 0.3 * len(words)
    assert total(scorer, tokens) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(3, 8), max_size=9))
def test_models_of_tokens_score_every_token_at_once(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int]
) -> None:
    sentences = [["\u2581ON", "E", "\u2581TW", "O"], ["\u2581ONE", "\u2581"], ["\u2581TW", "O", "\u2581ONE"]]
    arpa = trained(tmp_path_factory.mktemp("lm") / "lm.arpa", sentences)
    model = NgramLanguageModel(arpa, PIECES)
    assert model.has_tokens
    scorer, spelled = model.scorer(weighted(0.7, 0.3)), [PIECES.tokens[token] for token in tokens]
    expected = 0.7 * math.log(10) * textbook(arpa, spelled) + 0.3 * len(tokens)
    assert total(scorer, tokens) == pytest.approx(expected, rel=1e-5)
    state = scorer.start()
    for token in tokens:
        state, added = scorer.extend(state, token)
        assert added != 0


@pytest.mark.parametrize(("weight", "bonus"), [(0.6, 0.5), (1.5, -1.0)])
def test_the_search_finds_the_best_of_all_alignments(tmp_path: Path, weight: float, bonus: float) -> None:
    tokenizer = BpeTokenizer([*SPECIAL_TOKENS, "\u2581ON", "E", "\u2581TWO"], None)
    arpa = trained(tmp_path / "lm.arpa", SENTENCES)
    model = NgramLanguageModel(arpa, tokenizer)
    symbols = [0, 3, 4, 5]
    for seed in range(5):
        log_probs = np.full((5, 6), -np.inf)
        log_probs[:, symbols] = np.log(np.random.default_rng(seed).dirichlet(np.ones(4), size=5))
        scores: dict[tuple[int, ...], float] = {}
        for path in product(symbols, repeat=5):
            tokens = tuple(token for token, _ in groupby(path) if token)
            probability = sum(log_probs[frame, token] for frame, token in enumerate(path))
            scores[tokens] = np.logaddexp(scores.get(tokens, -np.inf), probability)
        for tokens in scores:
            words = tokenizer.decode(tokens).split()
            scores[tokens] += weight * math.log(10) * textbook(arpa, words) + bonus * len(words)
        best = ctc_prefix_beam_search(log_probs, 2000, 0, model.scorer(weighted(weight, bonus)))[0]
        assert best.tokens == max(scores, key=lambda tokens: scores[tokens])
        assert best.score == pytest.approx(scores[best.tokens], rel=1e-6)


def test_a_model_without_unk_forbids_no_word(tmp_path: Path) -> None:
    closed = ARPA.replace("-1.5\t<unk>\n", "").replace("1=5", "1=4")
    scorer = NgramLanguageModel(write(tmp_path / "lm.arpa", closed), PIECES).scorer(weighted(1.0, 0.0))
    state, _ = scorer.extend(scorer.start(), 3)
    _, added = scorer.extend(state, 4)
    assert added == pytest.approx(UNKNOWN_FLOOR * math.log(10))


def test_case_is_the_vocabularys_where_it_has_one(tmp_path: Path) -> None:
    lower = ARPA.replace("ONE", "one").replace("TWO", "two")
    mixed = ARPA.replace("ONE", "One").replace("TWO", "Two")
    tokens = ids(PIECES, ["\u2581ONE", "\u2581TW", "O"])
    upper = total(NgramLanguageModel(write(tmp_path / "upper.arpa"), PIECES).scorer(weighted(1.0, 0.0)), tokens)
    assert (
        total(NgramLanguageModel(write(tmp_path / "lower.arpa", lower), PIECES).scorer(weighted(1.0, 0.0)), tokens)
        == upper
    )
    with pytest.raises(DecodingError, match=r"mixed.arpa: 2 of its 2 words .* such as 'One'.* lm train --model"):
        NgramLanguageModel(write(tmp_path / "mixed.arpa", mixed), PIECES)


def test_a_model_of_another_script_or_of_other_tokens(tmp_path: Path) -> None:
    foreign = trained(tmp_path / "foreign.arpa", [["\u043e\u0434\u0438\u043d", "ONE", "\u0434\u0432\u0430"]], 2)
    with pytest.raises(DecodingError, match="2 of its 3 words"):
        NgramLanguageModel(foreign, PIECES)
    other = trained(tmp_path / "other.arpa", [["\u2581O", "NE", "\u2581T", "WO", "\u2581ONE"]], 2)
    with pytest.raises(DecodingError, match="4 of its 5 words"):
        NgramLanguageModel(other, PIECES)


def test_chinese_characters_are_words_and_complete_at_once(tmp_path: Path) -> None:
    tokenizer = CharTokenizer([*SPECIAL_TOKENS, "\u2581", "\u6211", "\u4eec", "A", "B"])
    arpa = trained(tmp_path / "lm.arpa", [["\u6211", "\u4eec"], ["\u6211", "AB", "\u4eec"], ["AB"]])
    scorer = NgramLanguageModel(arpa, tokenizer).scorer(weighted(1.0, 0.0))
    _, added = scorer.extend(scorer.start(), 4)
    assert added < 0
    for text in ("\u6211\u4eec", "\u6211 AB \u4eec", "AB \u6211 AB", "\u4eec\u4eec"):
        words = text.replace("\u6211", " \u6211 ").replace("\u4eec", " \u4eec ").split()
        tokens = tokenizer.encode(text)
        assert total(scorer, tokens) == pytest.approx(math.log(10) * textbook(arpa, words), rel=1e-5)


def test_bytes_and_languages(tmp_path: Path) -> None:
    tokenizer = CharTokenizer([*special_units(["en"], byte_fallback=True), "\u2581", "A", "B"])
    arpa = trained(tmp_path / "lm.arpa", [["A", "\u00c4B", "\u6211", "B"], ["\u00c4B", "\u0436", "\u0449"]])
    scorer = NgramLanguageModel(arpa, tokenizer).scorer(weighted(1.0, 0.0))
    tokens = [tokenizer.languages["en"], *tokenizer.encode("A \u00c4B \u6211 B")]
    words = ["A", "\u00c4B", "\u6211", "B"]
    assert len(tokens) > 1 + len(words)
    assert total(scorer, tokens) == pytest.approx(math.log(10) * textbook(arpa, words), rel=1e-5)


def test_tokens_of_text_without_spaces_show_by_their_bytes(tmp_path: Path) -> None:
    tokenizer = CharTokenizer([*special_units(byte_fallback=True), "\u6211", "\u4eec"])
    tokens = tokenizer.encode("\u6211\u56fd\u4eec")  # the second has no token
    spelled = [tokenizer.tokens[token] for token in tokens]
    assert len(spelled) == 5
    arpa = trained(tmp_path / "lm.arpa", [spelled, spelled[:1]])
    scorer = NgramLanguageModel(arpa, tokenizer).scorer(weighted(1.0, 0.5))
    assert total(scorer, tokens) == pytest.approx(math.log(10) * textbook(arpa, spelled) + 5 * 0.5, rel=1e-5)


def test_languages_are_nothing_to_a_model_of_tokens(tmp_path: Path) -> None:
    tokenizer = BpeTokenizer([*special_units(["en"]), "\u2581A", "B"], None)
    arpa = trained(tmp_path / "lm.arpa", [["\u2581A", "B"], ["\u2581A"]])
    scorer = NgramLanguageModel(arpa, tokenizer).scorer(weighted(1.0, 0.5))
    expected = math.log(10) * textbook(arpa, ["\u2581A", "B"]) + 2 * 0.5
    assert total(scorer, ids(tokenizer, ["<|en|>", "\u2581A", "B"])) == pytest.approx(expected, rel=1e-5)


def test_a_probability_above_one_is_refused_where_it_comes_up(tmp_path: Path) -> None:
    # KenLM lets backoffs be as they are, since those of pruned models may exceed 1.
    path = write(tmp_path / "lm.arpa", ARPA.replace("-99\t<s>\t-0.3", "-99\t<s>\t5"))
    scorer = NgramLanguageModel(path, PIECES).scorer(weighted(1.0, 0.0))
    state, _ = scorer.extend(scorer.start(), 8)  # ONE after <s> needs no backoff
    scorer.extend(state, 4)
    with pytest.raises(CheckpointError, match=r"lm\.arpa: the log-probability of 'TWO' is 4\.4"):
        total(scorer, ids(PIECES, ["\u2581TW", "O"]))


def test_weights_beside_the_file_are_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "lm.arpa")
    rescoring, alone = "attention_rescoring", "ctc_prefix_beam_search"
    assert NgramLanguageModel(path, PIECES).weights == dict.fromkeys((rescoring, alone), FusionWeights())
    own = {"lm_weight": 0.9, "length_bonus": -0.5, "oov_penalty": 2}
    weights_file(path).write_text(json.dumps({rescoring: {**own, "tuned": {}}}))
    assert NgramLanguageModel(path, PIECES).weights == dict.fromkeys((rescoring, alone), FusionWeights(**own))
    other = {"lm_weight": 0.1, "length_bonus": 0.5, "oov_penalty": 0}
    weights_file(path).write_text(json.dumps({alone: other, rescoring: own}))
    model = NgramLanguageModel(path, PIECES)
    assert model.weights == {rescoring: FusionWeights(**own), alone: FusionWeights(**other)}
    tokens = ids(PIECES, ["\u2581ONE"])
    assert total(model.scorer(weighted()), tokens) == total(model.scorer(weighted(0.9, -0.5, 2)), tokens)
    assert total(model.scorer(DecodingOptions(mode=alone)), tokens) == total(
        model.scorer(weighted(0.1, 0.5, 0)), tokens
    )
    assert total(model.scorer(weighted(0.5)), tokens) == total(model.scorer(weighted(0.5, -0.5)), tokens)


def test_weights_of_zero_are_no_language_model(tmp_path: Path) -> None:
    # Not even a search with a wider beam.
    path = write(tmp_path / "lm.arpa")
    assert Scorers(PIECES, NgramLanguageModel(path, PIECES)).of(DecodingOptions()) is not None
    weights_file(path).write_text(
        json.dumps({"attention_rescoring": dict.fromkeys(("lm_weight", "length_bonus", "oov_penalty"), 0)})
    )
    scorers = Scorers(PIECES, NgramLanguageModel(path, PIECES))
    assert scorers.of(DecodingOptions()) is None
    assert scorers.of(DecodingOptions(lm_weight=0.1)) is not None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"lm_weight": 1, "length_bonus": 0}',
        '{"attention_rescoring": {"lm_weight": 1, "oov_penalty": 0}}',
        '{"attention_rescoring": {"lm_weight": -1, "length_bonus": 0, "oov_penalty": 0}}',
        '{"attention_rescoring": {"lm_weight": 1, "length_bonus": 0, "oov_penalty": -1}}',
        '{"attention_rescoring": {"lm_weight": 1, "length_bonus": NaN, "oov_penalty": 0}}',
        "[" * 9999,
    ],
)
def test_weights_that_make_no_sense(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "lm.arpa")
    weights_file(path).write_text(content)
    with pytest.raises(CheckpointError, match=r"lm\.arpa\.json: "):
        NgramLanguageModel(path, PIECES)
