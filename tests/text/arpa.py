"""ARPA files, read and evaluated by their definition alone."""

import io

from unichoir.text.ngram import NgramModel, write_arpa

Entries = dict[tuple[str, ...], tuple[float, float]]
"""Of each n-gram its probability and its backoff weight, both log10."""


def read_arpa(text: str) -> Entries:
    fields = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return {tuple(f[1].split(" ")): (float(f[0]), float(f[2]) if len(f) > 2 else 0.0) for f in fields}


def to_arpa(model: NgramModel) -> str:
    file = io.BytesIO()
    progress = list(write_arpa(model, file))
    total = sum(len(level.word) for level in model.grams)
    assert progress == sorted(progress)
    assert progress[-1] == (total, total)
    return file.getvalue().decode()


def log10_probability(entries: Entries, context: tuple[str, ...], word: str) -> float:
    """Compute a probability by the recursion that defines ARPA files."""
    if (*context, word) in entries:
        return entries[(*context, word)][0]
    return entries.get(context, (0.0, 0.0))[1] + log10_probability(entries, context[1:], word)
