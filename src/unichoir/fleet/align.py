"""Align the utterances of manifests with their texts in this process, into a folder of `Results`."""

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
    """Align all utterances without a result in the folder; return all results, in the order of the utterances.

    Args:
        utterances: the recordings; `txt` is the spoken text.
        output: the folder; see `Results`. At the end `results.jsonl` holds the returned results.
        options: as for `Model.align`. If they name no language, each utterance's own is used, if the model supports it.
        retry_failed: repeat chunks that contain a failed utterance.
        progress: called after each utterance.

    Raises:
        UnichoirError: for a model or options that cannot work, and for a folder with other results. An error in an
            utterance becomes its result.
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
    """Write the results of `align` in these formats, as `write_formats` does; each line of a text is a segment."""
    texts = {utterance.key: utterance.txt for utterance in utterances}

    def lines(key: str, transcript: Transcript) -> list[list[Word]]:
        return words_by_line(transcript.words, texts[key])

    write_formats(folder, formats, subtitles, lines)


def _load(source: ModelSource, options: DecodingOptions) -> Model:
    model = Model(source.load())
    # A language that the model does not support must fail the whole job, not each recording.
    model.recognizer.search.languages.check(options.language)
    return model


def _align(model: Model, utterance: Utterance, options: DecodingOptions) -> Result:
    """Return the values of `Transcript.to_dict`, or the reason for the failure under `error`."""
    if options.language is None and utterance.lang in model.recognizer.search.languages.ids:
        options = dataclasses.replace(options, language=utterance.lang)
    try:
        warnings: list[str] = []
        samples = load_utterance(utterance, model.sample_rate, warnings.append)
        found = model.align(samples, utterance.txt, sample_rate=model.sample_rate, options=options)
        return dataclasses.replace(found, warnings=tuple(warnings)).to_dict()
    except UnichoirError as error:
        return {"error": str(error)}
