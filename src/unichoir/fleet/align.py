"""Align the utterances of manifests with their texts, in this process, into a folder of results like a cluster's."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from unichoir.api import Model, portable_name
from unichoir.data.utterance import Utterance, load_utterance
from unichoir.errors import UnichoirError
from unichoir.fleet.formats import write_formats
from unichoir.fleet.results import Result, Results, make_chunks
from unichoir.fleet.transcribe import Progress, describe_job
from unichoir.fleet.worker import ModelSource
from unichoir.recognition.forced import words_by_line
from unichoir.recognition.options import DecodingOptions
from unichoir.transcript.formats import Format
from unichoir.transcript.results import Transcript, Word
from unichoir.transcript.subtitles import SubtitleOptions


def align(
    utterances: Sequence[Utterance],
    output: Path,
    source: ModelSource,
    options: DecodingOptions,
    *,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> list[Result]:
    """Align all that has no result in the folder yet; the results of all, in the order of the utterances.

    Args:
        utterances: their `txt` is what is said.
        output: the folder; see `Results`. At the end `results.jsonl` holds what is returned.
        options: as for `Model.align`; without a language in them, that of each utterance counts, if the model has it.
        retry_failed: align chunks anew in which an utterance has failed.
        progress: called after each utterance.

    Raises:
        UnichoirError: for a model or options that cannot work, and for a folder with other results. What is wrong with
            an utterance is its result.
    """
    source = dataclasses.replace(source, name_or_dir=portable_name(source.name_or_dir))
    texts = json.dumps([(utterance.txt, utterance.lang) for utterance in utterances])
    job = {**describe_job(source, options), "texts": hashlib.sha256(texts.encode()).hexdigest()}
    results = Results(output, make_chunks(utterances), job)
    found: list[Result] = []
    model: Model | None = None
    for chunk in results.chunks:
        aligned = results.read(chunk)
        if aligned is None or (retry_failed and any("error" in result for result in aligned)):
            model = model or _load(source, options)
            aligned = []
            for utterance in chunk.utterances:
                aligned.append({"key": utterance.key, **_align(model, utterance, options)})
                if progress is not None:
                    progress(len(found) + len(aligned), len(utterances))
            results.write(chunk, aligned)
        found += aligned
    results.join()
    return found


def write_alignments(
    folder: Path, utterances: Sequence[Utterance], formats: Sequence[Format], subtitles: SubtitleOptions
) -> None:
    """Write what `align` has found in these formats, as `write_formats` does; segments are the lines of the texts."""
    texts = {utterance.key: utterance.txt for utterance in utterances}

    def lines(key: str, transcript: Transcript) -> list[list[Word]]:
        return words_by_line(transcript.words, texts[key])

    write_formats(folder, formats, subtitles, lines)


def _load(source: ModelSource, options: DecodingOptions) -> Model:
    model = Model(source.load())
    # What the model cannot do is no fault of the recordings.
    model.recognizer.search.languages.check(options.language)
    return model


def _align(model: Model, utterance: Utterance, options: DecodingOptions) -> Result:
    """What `Transcript.to_dict` gives or, under `error`, why there is none."""
    if options.language is None and utterance.lang in model.recognizer.search.languages.ids:
        options = dataclasses.replace(options, language=utterance.lang)
    try:
        warnings: list[str] = []
        samples = load_utterance(utterance, model.sample_rate, warnings.append)
        found = model.align(samples, utterance.txt, sample_rate=model.sample_rate, options=options)
        return dataclasses.replace(found, warnings=tuple(warnings)).to_dict()
    except UnichoirError as error:
        return {"error": str(error)}
