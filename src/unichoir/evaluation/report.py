"""What an evaluation looks like: a table for terminals, Markdown, JSON, and the alignments."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table

from unichoir.evaluation.evaluate import Evaluation, SetScore, UtteranceScore
from unichoir.model.load import LayerLoad
from unichoir.text.normalize import split_words
from unichoir.text.wer import ErrorCounts, align, format_alignment

COLUMNS = ("set", "mode", "chunk", "WER %", "S", "D", "I", "words", "CER %", "S", "D", "I", "RTF")
NUM_TEXT_COLUMNS = 2


def chunk_name(score: SetScore) -> str:
    """`full`, `16`, or with limited past `16, left 4`."""
    options = score.options
    left = f", left {options.num_left_chunks}" if options.num_left_chunks >= 0 else ""
    return f"{options.chunk_size}{left}" if options.chunk_size else "full"


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` for each set and setting."""
    return [
        (
            score.name,
            score.options.mode,
            chunk_name(score),
            *_cells(score.words),
            str(score.words.reference),
            *_cells(score.characters),
            f"{score.real_time_factor:.3f}",
        )
        for score in evaluation.scores
    ]


def _cells(counts: ErrorCounts) -> tuple[str, ...]:
    return (f"{100 * counts.rate:.2f}", *map(str, (counts.substitutions, counts.deletions, counts.insertions)))


def to_table(evaluation: Evaluation) -> Table:
    """For a terminal, narrower: errors as `substitutions/deletions/insertions`."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(("set", "mode", "chunk", "WER %", "S/D/I", "CER %", "S/D/I", "RTF")):
        justify: JustifyMethod = "left" if place < NUM_TEXT_COLUMNS else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=place > NUM_TEXT_COLUMNS)
    for name, mode, chunk, wer, *words, _, cer, s, d, i, factor in rows(evaluation):
        table.add_row(name, mode, chunk, wer, "/".join(words), cer, f"{s}/{d}/{i}", factor)
    return table


def to_markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown."""
    rule = ["---"] * NUM_TEXT_COLUMNS + ["---:"] * (len(COLUMNS) - NUM_TEXT_COLUMNS)
    lines = [COLUMNS, rule, *rows(evaluation)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_json(evaluation: Evaluation, model: str, experts: Mapping[str, LayerLoad] | None = None) -> dict[str, Any]:
    """Totals of each set and setting, broken files and, if known, the experts' load; ready for JSON."""
    content: dict[str, Any] = {
        "model": model,
        "scores": [
            {
                **_setting(score),
                "utterances": len(score.utterances),
                "audio_seconds": round(score.audio_seconds, 3),
                "real_time_factor": round(score.real_time_factor, 4),
                "beam_size": score.options.beam_size,
                "ctc_weight": score.options.ctc_weight,
                "wer": _counts(score.words),
                "cer": _counts(score.characters),
            }
            for score in evaluation.scores
        ],
        "broken": {name: dict(reasons) for name, reasons in evaluation.broken.items() if reasons},
    }
    if experts is not None:
        content["expert_load"] = {
            name: {"frames": list(load.frames), "entropy": round(load.entropy, 4), "dead": list(load.dead)}
            for name, load in experts.items()
        }
    return content


def _setting(score: SetScore) -> dict[str, Any]:
    return {
        "set": score.name,
        "mode": score.options.mode,
        "chunk_size": score.options.chunk_size,
        "num_left_chunks": score.options.num_left_chunks,
    }


def _counts(counts: ErrorCounts) -> dict[str, Any]:
    return {
        "rate": round(counts.rate, 6),
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "reference": counts.reference,
    }


def write_report(
    evaluation: Evaluation, directory: Path, model: str, experts: Mapping[str, LayerLoad] | None = None
) -> None:
    """Write results.json, results.md, utterances.jsonl (errors and alignment of each) and alignments.txt (to read)."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(to_json(evaluation, model, experts), indent=2, ensure_ascii=False)
    (directory / "results.json").write_text(content + "\n", encoding="utf-8")
    (directory / "results.md").write_text(to_markdown(evaluation), encoding="utf-8")
    with (
        (directory / "utterances.jsonl").open("w", encoding="utf-8") as lines,
        (directory / "alignments.txt").open("w", encoding="utf-8") as alignments,
    ):
        for score, utterance in _utterances(evaluation):
            pairs = align(split_words(utterance.reference), split_words(utterance.hypothesis))
            entry = {
                **_setting(score),
                "key": utterance.key,
                "reference": utterance.reference,
                "hypothesis": utterance.hypothesis,
                "wer": _counts(utterance.words),
                "cer": _counts(utterance.characters),
                "alignment": [list(pair) for pair in pairs],
            }
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            where = f"{score.name}, {score.options.mode}, {chunk_name(score)}: {utterance.key}"
            alignments.write(f"{where}\n{format_alignment(pairs)}\n\n")


def _utterances(evaluation: Evaluation) -> Iterator[tuple[SetScore, UtteranceScore]]:
    for score in evaluation.scores:
        for utterance in score.utterances:
            yield score, utterance
