"""Reports of an evaluation: a table for terminals, Markdown, JSON, and the alignments."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table

from unichoir.bundle.replacing import replace_text, replacing_text
from unichoir.evaluation.calibration import format_nce
from unichoir.evaluation.evaluate import Evaluation, SetScore, UtteranceScore, calibration_of
from unichoir.evaluation.plot import plot_experts
from unichoir.network.load import LayerLoad
from unichoir.text.normalize import split_words
from unichoir.text.wer import ErrorCounts, align, format_alignment

COLUMNS = ("set", "mode", "chunk", "WER %", "S", "D", "I", "words", "CER %", "S", "D", "I", "ECE", "NCE", "RTF")
NUM_TEXT_COLUMNS = 2
PICTURE = "experts.svg"
"""Shows which experts serve which language."""


def chunk_name(score: SetScore) -> str:
    """Return `full`, `16`, or, with a limited number of left chunks, `16, left 4`."""
    options = score.options
    left = f", left {options.num_left_chunks}" if options.num_left_chunks >= 0 else ""
    return f"{options.chunk_size}{left}" if options.chunk_size else "full"


def rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Return one row of `COLUMNS` for each set and setting, each followed by one per language of a multilingual set."""
    table = []
    for score in evaluation.scores:
        factor = f"{score.real_time_factor:.3f}"
        table.append(_row(score, score.name, score.utterances, factor))
        for language, utterances in score.by_language.items():
            table.append(_row(score, f"{score.name} [{language or 'unknown'}]", utterances, ""))
    return table


def _row(score: SetScore, name: str, utterances: Sequence[UtteranceScore], factor: str) -> tuple[str, ...]:
    setting = (score.options.mode, chunk_name(score))
    words, characters = _errors(utterances)
    calibration = calibration_of(utterances)
    trust = ("-", "-") if calibration is None else (f"{calibration.ece:.3f}", format_nce(calibration))
    return (name, *setting, *_cells(words), str(words.reference), *_cells(characters), *trust, factor)


def _errors(utterances: Sequence[UtteranceScore]) -> tuple[ErrorCounts, ErrorCounts]:
    """Return the errors in words and in characters."""
    words = sum((utterance.words for utterance in utterances), ErrorCounts())
    return words, sum((utterance.characters for utterance in utterances), ErrorCounts())


def _cells(counts: ErrorCounts) -> tuple[str, ...]:
    return (f"{100 * counts.rate:.2f}", *map(str, (counts.substitutions, counts.deletions, counts.insertions)))


def to_table(evaluation: Evaluation) -> Table:
    """Build a narrower table for a terminal, with errors as `substitutions/deletions/insertions`."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(("set", "mode", "chunk", "WER %", "S/D/I", "CER %", "S/D/I", "ECE", "RTF")):
        justify: JustifyMethod = "left" if place < NUM_TEXT_COLUMNS else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=place > NUM_TEXT_COLUMNS)
    for name, mode, chunk, wer, ws, wd, wi, _, cer, s, d, i, ece, _, factor in rows(evaluation):
        table.add_row(name, mode, chunk, wer, f"{ws}/{wd}/{wi}", cer, f"{s}/{d}/{i}", ece, factor)
    return table


def to_markdown(evaluation: Evaluation) -> str:
    """Return all `rows` as a Markdown table."""
    rule = ["---"] * NUM_TEXT_COLUMNS + ["---:"] * (len(COLUMNS) - NUM_TEXT_COLUMNS)
    lines = [COLUMNS, rule, *rows(evaluation)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_json(
    evaluation: Evaluation,
    model: str,
    experts: Mapping[str, LayerLoad] | None = None,
    by_language: Mapping[str, Mapping[str, LayerLoad]] | None = None,
    language_model: str | None = None,
) -> dict[str, Any]:
    """Return the totals of each set and setting, broken files and, if known, the experts' load as JSON values."""
    content: dict[str, Any] = {
        "model": model,
        "language_model": language_model,
        "scores": [
            {
                **_setting(score),
                "utterances": len(score.utterances),
                "audio_seconds": round(score.audio_seconds, 3),
                "real_time_factor": round(score.real_time_factor, 4),
                "beam_size": score.options.beam_size,
                "ctc_weight": score.options.ctc_weight,
                "attention_beam": score.options.attention_beam,
                "reencode": score.options.reencode,
                "lm_weight": score.options.lm_weight,
                "length_bonus": score.options.length_bonus,
                "oov_penalty": score.options.oov_penalty,
                "hotwords": len(score.options.hotwords),
                "language": score.options.language,
                "vad": score.options.vad,
                "wer": _counts(score.words),
                "cer": _counts(score.characters),
                "calibration": _calibration(score.utterances),
                "languages": _languages(score),
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
    if by_language is not None:
        content["expert_load_by_language"] = {
            language: {name: list(load.frames) for name, load in loads.items()}
            for language, loads in by_language.items()
        }
    return content


def _languages(score: SetScore) -> dict[str, Any]:
    found = {}
    for language, utterances in score.by_language.items():
        words, characters = _errors(utterances)
        found[language] = {
            "utterances": len(utterances),
            "wer": _counts(words),
            "cer": _counts(characters),
            "calibration": _calibration(utterances),
        }
    return found


def _calibration(utterances: Sequence[UtteranceScore]) -> dict[str, Any] | None:
    found = calibration_of(utterances)
    return None if found is None else found.to_dict()


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
    evaluation: Evaluation,
    directory: Path,
    model: str,
    experts: Mapping[str, LayerLoad] | None = None,
    by_language: Mapping[str, Mapping[str, LayerLoad]] | None = None,
    language_model: str | None = None,
) -> None:
    """Write results.json, results.md, utterances.jsonl (errors and alignment of each) and the readable alignments.txt.

    If the experts' load is known by language, also write experts.svg.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(to_json(evaluation, model, experts, by_language, language_model), indent=2, ensure_ascii=False)
    if by_language:
        plot_experts(by_language, directory / PICTURE)
    replace_text(directory / "results.json", content + "\n")
    replace_text(directory / "results.md", to_markdown(evaluation))
    with (
        replacing_text(directory / "utterances.jsonl") as lines,
        replacing_text(directory / "alignments.txt") as alignments,
    ):
        for score, utterance in _utterances(evaluation):
            pairs = align(split_words(utterance.reference), split_words(utterance.hypothesis))
            entry = {
                **_setting(score),
                "key": utterance.key,
                "language": utterance.language,
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
