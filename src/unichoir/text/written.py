"""Written form of transcripts: numbers, and punctuation with case, as separate options."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unichoir.text.english_punctuation import EnglishPunctuator
from unichoir.text.itn import ItnLanguage, Span, is_readable, load_grammar, write_numbers
from unichoir.text.marked import NO_CONTEXT, Context, Marked
from unichoir.text.normalize import canonical_text, is_cjk, split_words
from unichoir.text.punctuation import load_punctuator

_LAST_MARKS = re.compile(r"(?<=.)[,.?!;:]+$")


@dataclass(frozen=True)
class WrittenForm:
    """The written form of transcripts. It can be compared, hashed and sent to other processes.

    itn: language of the grammar that writes numbers, dates, times, amounts: `en`, `ja` or `zh`; None keeps words.
    punctuation: directory of a punctuation model; None uses the recogniser's own model if there is one, and otherwise
    keeps marks and case as they are. Raises ConfigError for another language, CheckpointError for a directory without a
    usable model, UnichoirError without the required extra.

    The model processes the words first. Then the grammar writes numbers, none of them across a mark. Text in capitals
    stays in capitals unless a model supports case: TWENTY ONE KILOMETERS becomes 21 KM.
    """

    itn: ItnLanguage | None = None
    punctuation: str | Path | None = None

    def __post_init__(self) -> None:
        # Missing packages and files are reported before recognition starts.
        if self.itn is not None:
            load_grammar(self.itn)
        if self.punctuation is not None:
            load_punctuator(self.punctuation)

    def __call__(self, text: str, context: Context = NO_CONTEXT) -> str:
        """Return the written text as `canonical_text`. Raises DecodingError, naming the text, like `spans`."""
        return canonical_text(" ".join(span.text for span in self.spans(split_words(text), context)))

    def spans(self, words: Sequence[str], context: Context = NO_CONTEXT) -> list[Span]:
        """Return the written form of words, none of them empty, as consecutive spans that cover all of them.

        context: the text around them, which marks and case may depend on; numbers never include it. A word that the
        grammar can't read (`is_readable`) stays the same. Raises DecodingError if the model or the grammar fails
        otherwise.
        """
        spans: list[Span] = []
        for run in _runs(self._marked(words, context)):
            first = spans[-1].end if spans else 0
            spans += [replace(span, first=first + span.first, end=first + span.end) for span in self._convert(run)]
            if (mark := run[-1].mark) and not spans[-1].text.endswith(mark):
                spans[-1] = replace(spans[-1], text=spans[-1].text + mark)
        return spans

    def _marked(self, words: Sequence[str], context: Context) -> list[Marked]:
        """Add marks. A word that already ends with a mark keeps it, and a lone mark gets no other.

        Our own model can't see marks, so text that already has marks keeps its author's.
        """
        bare = [_LAST_MARKS.sub("", word) for word in words]
        marks = [word[len(text) :] for word, text in zip(words, bare, strict=True)]
        punctuate = None if self.punctuation is None else load_punctuator(self.punctuation)
        if punctuate is None or (isinstance(punctuate, EnglishPunctuator) and any(marks)):
            return [Marked(text, mark) for text, mark in zip(bare, marks, strict=True)]
        return [
            new if not mark and any(map(str.isalnum, new.text)) else replace(new, mark=mark)
            for new, mark in zip(punctuate(bare, context), marks, strict=True)
        ]

    def _convert(self, run: Sequence[Marked]) -> list[Span]:
        words = [word.text for word in run]
        if self.itn is None or not is_readable(words[0]):
            return [Span(place, place + 1, word) for place, word in enumerate(words)]
        return write_numbers(words, self.itn)


def written_words(text: str) -> list[str]:
    """Split like `split_words`, but keep CJK marks at the end of the previous word."""
    words: list[str] = []
    for word in split_words(text):
        if words and is_cjk(word) and unicodedata.category(word).startswith("P"):
            words[-1] += word
        else:
            words.append(word)
    return words


def _runs(words: Sequence[Marked]) -> Iterator[list[Marked]]:
    """Yield runs that may contain numbers.

    Each ends at a mark, and a word that the grammar can't read is a run of its own.
    """
    run: list[Marked] = []
    for word in words:
        readable = is_readable(word.text)
        if run and not readable:
            yield run
            run = []
        run.append(word)
        if word.mark or not readable:
            yield run
            run = []
    if run:
        yield run
