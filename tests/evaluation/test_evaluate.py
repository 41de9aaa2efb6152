"""Scores against an independent count, and against recognising one by one."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unichoir.api import load_recognizer
from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.errors import CheckpointError
from unichoir.evaluation.evaluate import Evaluation, evaluate, plan, recognize_all
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.options import MODES
from unichoir.text.normalize import normalize_for_scoring

RATE = 16000
GROUPS = plan(DecodingOptions(beam_size=4), [None, 3], MODES)


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> Recognizer:
    return load_recognizer(tiny_model, 1)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Three readable utterances, one of them a part of a file, and two unreadable ones."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(11)
    time = np.arange(2 * RATE) / RATE
    for number in range(2):
        sweep = np.sin(2 * np.pi * (300 * time + (400 + 500 * number) * time**2))
        soundfile.write(folder / f"{number}.wav", 0.3 * sweep + 0.02 * rng.standard_normal(len(time)), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    entries = [
        {"key": "zero", "wav": "0.wav", "txt": "a b, c!"},
        {"key": "one", "wav": "1.wav", "txt": ""},
        {"key": "broken", "wav": "broken.wav", "txt": "x"},
        {"key": "part", "wav": "1.wav", "txt": "DON'T", "start": 0.5, "end": 1.5},
        {"key": "gone", "wav": "gone.wav", "txt": "y"},
    ]
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return read_manifest(path)


@pytest.fixture(scope="module")
def evaluation(recognizer: Recognizer, utterances: list[Utterance]) -> Evaluation:
    return evaluate(recognizer, {"first": utterances, "second": utterances[:1]}, GROUPS)


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein distance, as in textbooks."""
    rows = [[i + j if i * j == 0 else 0 for j in range(len(hypothesis) + 1)] for i in range(len(reference) + 1)]
    for i in range(1, len(reference) + 1):
        for j in range(1, len(hypothesis) + 1):
            substituted = rows[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1])
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, substituted)
    return rows[-1][-1]


def test_plan_limits_the_past_only_where_there_are_chunks() -> None:
    full, chunked = plan(DecodingOptions(chunk_size=8, num_left_chunks=2), [None, 16], ["attention"])
    assert [(options.chunk_size, options.num_left_chunks) for options in (*full, *chunked)] == [(None, -1), (16, 2)]


def test_every_setting_once_in_order(evaluation: Evaluation) -> None:
    expected = [(name, size, mode) for name in ("first", "second") for size in (None, 3) for mode in MODES]
    assert [(s.name, s.options.chunk_size, s.options.mode) for s in evaluation.scores] == expected
    assert all([u.key for u in s.utterances] == ["zero", "one", "part"] for s in evaluation.scores[:8])


def test_texts_are_those_of_the_recogniser(
    evaluation: Evaluation, recognizer: Recognizer, utterances: list[Utterance]
) -> None:
    by_key = {utterance.key: utterance for utterance in utterances}
    for score in evaluation.scores:
        for item in score.utterances:
            samples = load_utterance(by_key[item.key], RATE)
            assert item.hypothesis == normalize_for_scoring(
                recognizer.recordings.recognize(samples, score.options).text
            )
    assert len({item.hypothesis for score in evaluation.scores for item in score.utterances}) > 4


def test_counts_against_an_independent_computation(evaluation: Evaluation) -> None:
    references = {"zero": "A B C", "one": "", "part": "DON'T"}
    for score in evaluation.scores:
        texts = [(references[item.key], item.hypothesis) for item in score.utterances]
        assert [item.reference for item in score.utterances] == [reference for reference, _ in texts]
        words = [(reference.split(), hypothesis.split()) for reference, hypothesis in texts]
        letters = [(list("".join(reference)), list("".join(hypothesis))) for reference, hypothesis in words]
        for counts, pairs in ((score.words, words), (score.characters, letters)):
            assert counts.errors == sum(distance(*pair) for pair in pairs)
            assert counts.reference == sum(len(reference) for reference, _ in pairs)
            assert counts.insertions - counts.deletions == sum(len(hyp) - len(ref) for ref, hyp in pairs)
            assert counts.rate == counts.errors / counts.reference


def test_broken_files_are_named_and_not_scored(evaluation: Evaluation) -> None:
    assert list(evaluation.broken["first"]) == ["broken", "gone"]
    assert "No such file" in evaluation.broken["first"]["gone"]
    assert evaluation.broken["second"] == {}
    assert evaluation.scores[0].audio_seconds == pytest.approx(5.0)
    assert evaluation.scores[0].real_time_factor > 0


def test_long_recordings_are_cut_as_the_recogniser_does(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    samples = np.concatenate([load_utterance(utterances[0], RATE), load_utterance(utterances[1], RATE)])
    for options, found in recognize_all(
        recognizer, samples, plan(DecodingOptions(max_segment_seconds=1.2), [None, 5], MODES)
    ).items():
        expected = recognizer.recordings.recognize(samples, options)
        assert found.text == expected.text
        assert [(word.text, word.confidence) for word in found.words] == [
            (word.text, word.confidence) for word in expected.words
        ]


def test_the_encoder_runs_once_for_each_chunk_size(recognizer: Recognizer, utterances: list[Utterance]) -> None:
    class Counting:
        def __init__(self) -> None:
            self.info, self.calls = recognizer.backend.info, 0

        def encode_chunk(self, *arguments: object) -> object:
            self.calls += 1
            return recognizer.backend.encode_chunk(*arguments)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(recognizer.backend, name)

    counting = Counting()
    counted = Recognizer(counting, recognizer.tokenizer, recognizer.fbank_config)  # type: ignore[arg-type]
    samples = load_utterance(utterances[0], RATE)
    recognize_all(counted, samples, plan(DecodingOptions(), [None], MODES))
    assert counting.calls == 1
    recognize_all(counted, samples, plan(DecodingOptions(), [None, 10], MODES))
    frames = recognizer.backend.info.num_encoder_frames(198)
    assert counting.calls == 2 + -(-frames // 10)


def test_audio_too_short_for_a_frame_is_all_deletions(recognizer: Recognizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(800, 0.1), RATE)
    utterance = Utterance(key="a", wav=str(tmp_path / "a.wav"), txt="HELLO THERE")
    for score in evaluate(recognizer, {"set": [utterance]}, GROUPS).scores:
        assert (score.words.deletions, score.words.errors) == (2, 2)


def test_processes_give_the_same(tiny_model: Path, evaluation: Evaluation, utterances: list[Utterance]) -> None:
    seen: list[tuple[int, int]] = []
    found = evaluate(
        partial(load_recognizer, tiny_model, 1),
        {"first": utterances, "second": utterances[:1]},
        GROUPS,
        jobs=2,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(done, 6) for done in range(1, 7)]
    assert found.broken == evaluation.broken
    for score, expected in zip(found.scores, evaluation.scores, strict=True):
        assert score.utterances == expected.utterances


def test_errors_of_worker_processes_arrive(tmp_path: Path, utterances: list[Utterance]) -> None:
    with pytest.raises(CheckpointError, match="neither a model"):
        evaluate(partial(load_recognizer, tmp_path), {"set": utterances}, GROUPS, jobs=2)
