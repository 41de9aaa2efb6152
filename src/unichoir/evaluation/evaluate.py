"""Measure a model on manifests, with every mode and chunk size on every utterance; shared work is done only once."""

import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import compute_fbank
from unichoir.data.manifest import Utterance, load_utterance
from unichoir.engine.backend import Floats
from unichoir.errors import AudioError, DecodingError
from unichoir.evaluation.calibration import Calibration, Judged, correct_words, measure_calibration
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.options import Mode
from unichoir.search.rescoring import is_reencoded
from unichoir.text.normalize import canonical_text, normalize_for_scoring
from unichoir.text.wer import ErrorCounts, char_errors, word_errors
from unichoir.transcript.results import Word

P = ParamSpec("P")
R = TypeVar("R")

Load = Callable[[], Recognizer]
"""Creates the recogniser in the process that needs it; must be picklable."""


@dataclass(frozen=True, kw_only=True)
class UtteranceScore:
    """The score of one utterance with one setting; texts are normalised (`normalize_for_scoring` of its language)."""

    key: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    characters: ErrorCounts
    language: str = ""
    """The language in the manifest."""
    judged: Judged = ()
    """The confidence of each recognised word, and whether the word is correct."""


def calibration_of(utterances: Sequence[UtteranceScore]) -> Calibration | None:
    """Measure the calibration of the words' confidences; None if no word was recognised."""
    return measure_calibration([word for utterance in utterances for word in utterance.judged])


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """The score of one set of utterances with one setting."""

    name: str
    options: DecodingOptions
    utterances: tuple[UtteranceScore, ...]
    audio_seconds: float
    seconds: float
    """Time for features, encoder and search, summed over utterances; reading the audio is excluded. If several modes
    share an encoder pass, it counts in full for each."""

    @property
    def words(self) -> ErrorCounts:
        """The word errors of the whole set."""
        return sum((utterance.words for utterance in self.utterances), ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        """The character errors of the whole set."""
        return sum((utterance.characters for utterance in self.utterances), ErrorCounts())

    @property
    def by_language(self) -> dict[str, tuple[UtteranceScore, ...]]:
        """The utterances of each language, in alphabetical order of the languages; empty for a set in one language."""
        languages = sorted({utterance.language for utterance in self.utterances})
        if len(languages) < 2:
            return {}
        return {one: tuple(score for score in self.utterances if score.language == one) for one in languages}

    @property
    def real_time_factor(self) -> float:
        """Seconds of computation per second of audio."""
        return self.seconds / self.audio_seconds if self.audio_seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of all sets with readable audio, with all settings, set by set."""

    scores: tuple[SetScore, ...]
    broken: Mapping[str, Mapping[str, str]]
    """For each set, the keys of utterances whose audio cannot be read, with the reasons. No score includes them."""


def plan(
    base: DecodingOptions, chunk_sizes: Iterable[int | None], modes: Sequence[Mode]
) -> tuple[tuple[DecodingOptions, ...], ...]:
    """Combine `base` with every chunk size (None or 0: full context) and every mode; one group for each chunk size."""
    return tuple(
        tuple(
            dataclasses.replace(
                base,
                mode=mode,
                chunk_size=size or None,
                num_left_chunks=base.num_left_chunks if size else -1,
                reencode=base.reencode if size and mode == "attention_rescoring" else None,
            )
            for mode in modes
        )
        for size in chunk_sizes
    )


def evaluate(
    recognizer: Recognizer | Load,
    sets: Mapping[str, Sequence[Utterance]],
    groups: Sequence[Sequence[DecodingOptions]],
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Utterance], None] | None = None,
) -> Evaluation:
    """Recognise the utterances of each named set with all options, and count the errors.

    Args:
        recognizer: a recogniser to use in this process, or a function that creates one in each worker process.
        groups: from `plan`. The options of a group need the same encoder output, so the encoder runs once per group,
            and once more if any of them use `reencode`.
        jobs: the number of worker processes; used only if `recognizer` is a function.
        progress: called with (done, total) after each utterance.
        watch: called after each recognised utterance, before the next one; needs a recogniser in this process.

    Raises:
        UnichoirError: for a model or options that cannot work. Unreadable audio is only recorded in `broken`.
    """
    total, done = sum(map(len, sets.values())), 0
    scores: list[SetScore] = []
    broken: dict[str, dict[str, str]] = {}
    with _workers(recognizer, groups, jobs) as measure:
        for name, utterances in sets.items():
            measured: list[_Measured] = []
            broken[name] = {}
            for utterance, outcome in zip(utterances, measure(utterances), strict=True):
                if isinstance(outcome, _Measured):
                    measured.append(outcome)
                    if watch is not None:
                        watch(utterance)
                else:
                    broken[name][utterance.key] = outcome
                done += 1
                if progress is not None:
                    progress(done, total)
            if measured:
                scores += [_set_score(name, option, measured) for group in groups for option in group]
    return Evaluation(scores=tuple(scores), broken=broken)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """The scores and times of one utterance with each of the options."""

    audio_seconds: float
    scores: Mapping[DecodingOptions, UtteranceScore]
    seconds: Mapping[DecodingOptions, float]


def _set_score(name: str, options: DecodingOptions, measured: Sequence[_Measured]) -> SetScore:
    return SetScore(
        name=name,
        options=options,
        utterances=tuple(item.scores[options] for item in measured),
        audio_seconds=sum(item.audio_seconds for item in measured),
        seconds=sum(item.seconds[options] for item in measured),
    )


def _measure(
    recognizer: Recognizer, groups: Sequence[Sequence[DecodingOptions]], utterance: Utterance
) -> _Measured | str:
    """Score one utterance, or return why its audio cannot be read."""
    rate = recognizer.fbank_config.sample_rate
    try:
        samples = load_utterance(utterance, rate)
    except AudioError as error:
        return str(error)
    results = recognize_all(recognizer, samples, groups)
    return _Measured(
        audio_seconds=len(samples) / rate,
        scores={options: _score(utterance, found) for options, found in results.items()},
        seconds={options: found.seconds for options, found in results.items()},
    )


def _score(utterance: Utterance, found: "Recognised") -> UtteranceScore:
    reference, hypothesis = (normalize_for_scoring(each, utterance.lang) for each in (utterance.txt, found.text))
    return UtteranceScore(
        key=utterance.key,
        reference=reference,
        hypothesis=hypothesis,
        words=word_errors(reference, hypothesis),
        characters=char_errors(reference, hypothesis),
        language=utterance.lang,
        judged=tuple(correct_words(utterance.txt, found.words, utterance.lang)),
    )


class Recognised(NamedTuple):
    """The text recognised in one recording, and the seconds that took; the words' times are approximate."""

    text: str
    words: list[Word]
    seconds: float


def recognize_all(
    recognizer: Recognizer, samples: NDArray[np.float32], groups: Sequence[Sequence[DecodingOptions]]
) -> dict[DecodingOptions, Recognised]:
    """Recognise one recording with each of the options; samples: (N,) at the recogniser's rate.

    Texts and confidences equal those of `RecordingRecognizer.recognize`, but features are computed once, and the
    encoder runs once per group, and once more if any options of the group use `reencode`. The measured time excludes
    aligning the words, which not every caller needs.
    """
    texts: dict[DecodingOptions, list[str]] = {options: [] for group in groups for options in group}
    words: dict[DecodingOptions, list[Word]] = {options: [] for options in texts}
    seconds = dict.fromkeys(texts, 0.0)
    for piece in recognizer.recordings.pieces([samples], next(iter(texts))):
        if piece.samples is None:
            continue
        feats, feats_seconds = _timed(compute_fbank, piece.samples, recognizer.fbank_config)
        for group in groups:
            first = dataclasses.replace(group[0], reencode=False)
            once = _timed(recognizer.recordings.encode, [feats], first)
            again: tuple[list[tuple[Floats, Floats]], float] | None = None
            for options in group:
                [(encoder_out, log_probs)], encoder_seconds = once
                if options.chunk_size and is_reencoded(recognizer.backend.info, options):
                    again = again or _timed(recognizer.recordings.encode, [feats], options)
                    [(encoder_out, log_probs)], more_seconds = again
                    encoder_seconds += more_seconds
                hyps, search_seconds = _timed(_search, recognizer, encoder_out, log_probs, options)
                seconds[options] += feats_seconds + encoder_seconds + search_seconds
                for hyp in hyps[:1]:
                    best = recognizer.reader.reading(hyp, log_probs, None, 0, 0)
                    texts[options].append(best.text)
                    words[options] += best.words
    return {
        options: Recognised(canonical_text(" ".join(parts)), words[options], seconds[options])
        for options, parts in texts.items()
    }


def _timed(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    begun = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - begun


def _search(
    recognizer: Recognizer, encoder_out: Floats, log_probs: Floats, options: DecodingOptions
) -> list[Hypothesis]:
    """Return the hypotheses; an empty list if there are too few frames."""
    return recognizer.search(encoder_out, log_probs, options) if len(encoder_out) else []


@contextmanager
def _workers(
    recognizer: Recognizer | Load, groups: Sequence[Sequence[DecodingOptions]], jobs: int
) -> Iterator[Callable[[Sequence[Utterance]], Iterator[_Measured | str]]]:
    """Yield a function that applies `_measure` to utterances, in order, in this process or in `jobs` processes."""
    if isinstance(recognizer, Recognizer):
        yield partial(map, partial(_measure, recognizer, groups))
        return
    # Spawned, not forked: the threads of an inference engine do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_leave_interrupt_to_parent)
    try:
        yield partial(pool.map, partial(_measure_in_worker, recognizer, groups))
    except BrokenProcessPool:
        raise DecodingError("a worker process died (out of memory?): use fewer jobs") from None
    finally:
        pool.shutdown(cancel_futures=True)


_recognizer_of_worker: Recognizer | None = None


def _measure_in_worker(
    load: Load, groups: Sequence[Sequence[DecodingOptions]], utterance: Utterance
) -> _Measured | str:
    # Loaded here, not when the worker starts: errors then reach the parent with their own type and message.
    global _recognizer_of_worker
    if _recognizer_of_worker is None:
        _recognizer_of_worker = load()
    return _measure(_recognizer_of_worker, groups, utterance)


def _leave_interrupt_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
