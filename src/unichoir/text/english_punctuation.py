"""English punctuation and case from the small model that model directories contain as `punctuation.onnx`.

The file holds the complete model: the network, and as metadata its vocabulary and the spelling of names such as
McDonald. The network looks four words ahead. In a stream, the words after the last one are unknown, so a separate rule
decides about ends of sentences. Sequences of letters and numbers, which are spelled or read out, are no sentences and
get no marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unichoir.errors import CheckpointError, DecodingError
from unichoir.text.marked import NO_CONTEXT, Context, Marked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PUNCTUATION_FILE = "punctuation.onnx"
FORMAT_KEY, FORMAT = "unichoir_punctuation", "1"
MARKS = ("", ",", ".", "?")
CASES = ("lower", "capitalised", "upper")

NOTHING_WEIGHT = 0.55
"""Weight of "no mark" relative to the marks. It maximises F1 on dev: the most probable choice alone omits too many
marks."""
FRAGMENT = 0.25
"""An utterance whose last word ends a sentence with a lower probability than this is incomplete and gets no mark."""
_WORDS_BEFORE, _WORDS_AFTER = 16, 4
_NUMBER = re.compile(
    "zero|oh|(one|two|three|four|five|six|seven|eight|nine)(teen|ty)?|ten|eleven|twelve|thirteen|fifteen|eighteen|"
    r"twenty|thirty|forty|fifty|eighty|hundred|thousand|[0-9]+"
)
_ENDS = (".", "?", "!")


def load_english_punctuation(file: Path) -> EnglishPunctuator:
    """Read the file, which takes a few hundredths of a second. Raises CheckpointError if it isn't a valid model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # many types, without a common base
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{file}: not a model that ONNX Runtime loads: {reason}") from None
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata.get(FORMAT_KEY) != FORMAT:
        raise CheckpointError(
            f"{file}: not a punctuation model of unichoir: its metadata has no {FORMAT_KEY} = {FORMAT}"
        )
    words, forms = metadata.get("words", "").split(), metadata.get("forms", "").split()
    punctuator = EnglishPunctuator(session, words, {form.lower(): form for form in forms})
    try:
        punctuator.probabilities([*words[-1:], "\u00e9"])
    except DecodingError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return punctuator


class EnglishPunctuator:
    """Adds case and marks (comma, full stop, question mark) to words in a single case.

    session: maps `rows` (N, 8) from `word_rows` to the probabilities `marks` (N, 4) and `cases` (N, 3). words: the
    vocabulary; forms: spelling for lower-case words.
    """

    def __init__(self, session: Any, words: Sequence[str], forms: Mapping[str, str]) -> None:
        self._session = session
        self.index = {word: row for row, word in enumerate(words, 1)}
        self._forms = forms
        self._cached = lru_cache(maxsize=64)(self._mark)

    def __call__(self, words: Sequence[str], context: Context = NO_CONTEXT) -> list[Marked]:
        """Mark the words. Words that already have both capital and small letters are returned unchanged.

        Raises DecodingError if the model can't be computed.
        """
        text = "".join(words)
        if not words or not (text.isupper() or text.islower()):
            return [Marked(word) for word in words]
        return list(self._cached(tuple(words), context))

    def _mark(self, words: tuple[str, ...], context: Context) -> tuple[Marked, ...]:
        said = [word.lower() for word in words]
        before = [word for word in map(_bare, context.before.split()[-_WORDS_BEFORE:]) if word]
        after = [word for word in map(_bare, context.after.split()[:_WORDS_AFTER]) if word]
        marks, cases = self.probabilities([*before, *said, *after])
        inside = slice(len(before), len(before) + len(said))
        spelled = _spelled([*before, *said, *after])[inside]
        chosen = _choose_marks(said, spelled, marks[inside], is_open=bool(after))
        marked, begins = [], _has_ended(context.before)
        for word, mark, case, is_letter in zip(said, chosen, cases[inside].argmax(axis=1), spelled, strict=True):
            marked.append(Marked(self._write(word, CASES[case], begins, is_letter), mark))
            begins = mark in _ENDS
        return tuple(marked)

    def _write(self, word: str, case: str, begins: bool, is_letter: bool) -> str:
        if is_letter or case == "upper":
            return word.upper()
        if case == "capitalised":
            return self._forms.get(word) or _capitalised(word)
        return _capitalised(word) if begins else word

    def probabilities(self, words: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the probabilities of MARKS (N, 4) and CASES (N, 3) for lower-case words. Raises DecodingError."""
        from unichoir.text.word_features import word_rows  # imported late: numpy would slow down `--help`

        try:
            marks, cases = self._session.run(["marks", "cases"], {"rows": word_rows(words, self.index)})
        except Exception as error:  # many types, without a common base
            reason = str(error).strip().partition("\n")[0]
            raise DecodingError(f"the punctuation model cannot be computed: {reason}") from None
        if marks.shape != (len(words), len(MARKS)) or cases.shape != (len(words), len(CASES)):
            raise DecodingError(
                f"the punctuation model gives shapes {marks.shape}, {cases.shape} for {len(words)} words"
            )
        return marks, cases


def _choose_marks(said: Sequence[str], spelled: Sequence[bool], marks: NDArray[np.float32], is_open: bool) -> list[str]:
    """Return a mark for each word. is_open: whether the text continues after the last word."""
    is_row = [letter or _is_number(word) for word, letter in zip(said, spelled, strict=True)]
    if all(is_row) and not is_open:
        return [""] * len(said)
    chosen = [MARKS[mark] for mark in (marks * (NOTHING_WEIGHT, 1, 1, 1)).argmax(axis=1)]
    for place in range(len(said) - 1):
        in_row = is_row[place] and is_row[place + 1]
        if in_row and (chosen[place] == "," or spelled[place] or spelled[place + 1]):
            chosen[place] = ""
    if not is_open:
        nothing, comma, stop, question = map(float, marks[-1])
        # A lone "yes" would usually be "yes, ...", but here nothing follows.
        goes_on = nothing if len(said) <= 2 else nothing + comma
        chosen[-1] = "" if goes_on > 1 - FRAGMENT else "?" if question > stop else "."
    return chosen


def _spelled(said: Sequence[str]) -> list[bool]:
    """Return which words are letters: all single letters except `a` and `i`, and those two next to another letter."""
    single = [len(word) == 1 and word.isalpha() for word in said]
    spelled = [is_single and word not in "ai" for word, is_single in zip(said, single, strict=True)]
    for order in (range(1, len(said)), range(len(said) - 2, -1, -1)):
        step = order.step
        for place in order:
            spelled[place] |= single[place] and spelled[place - step]
    return spelled


def _has_ended(before: str) -> bool:
    """Return whether a sentence begins after this text.

    Text without a mark continues, except after letters and numbers.
    """
    last = before.split()[-1:]
    return not last or last[0].endswith(_ENDS) or _is_number(last[0]) or (len(last[0]) == 1 and last[0] != "a")


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word.lower()) is not None


def _capitalised(word: str) -> str:
    """Return the word with a capital first letter, which may follow an apostrophe."""
    for place, character in enumerate(word):
        if character.isalpha():
            return word[:place] + character.upper() + word[place + 1 :]
    return word


def _bare(word: str) -> str:
    return word.strip(",.?!;:").lower()
