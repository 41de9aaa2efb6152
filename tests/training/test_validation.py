import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unichoir.data.dataset import Example, collate
from unichoir.errors import TrainingError
from unichoir.training.config import ExperimentConfig
from unichoir.training.feeding import BatchRequest, Loaded, Position, load, requests
from unichoir.training.parallel import ParallelConfig, Spread
from unichoir.training.setup import new_model, prepare
from unichoir.training.validation import to_device, validate
from unichoir.training.world import World


def test_validation_is_the_mean_over_single_utterances(
    experiment: Callable[..., ExperimentConfig], corpus: Path, tmp_path: Path, world: World
) -> None:
    setup = prepare(experiment(), [corpus / "train.jsonl"], [corpus / "dev.jsonl"])
    model = new_model(setup, tmp_path, print, world).train()
    planned = requests(setup.dev_corpus, setup.dev.reader, Position())
    measured = validate(
        Spread(model, ParallelConfig(), world),
        load(setup.dev, planned, 0),
        setup.tokenizer,
        contextlib.nullcontext,
        lambda: False,
    )
    assert model.training
    model.eval()
    losses, errors, length = [], 0, 0
    (window,) = setup.dev_corpus.windows(0, 0)
    for utterance in window.utterances:
        example = setup.dev.reader.read(utterance, 0)
        assert isinstance(example, Example)
        feats, lengths, *tokens = to_device(collate([example]), torch.device("cpu"))
        losses.append(model(feats, lengths, *tokens).loss.item())
        encoder_out, encoder_out_lens, _ = model.encoder(feats, lengths)
        best = model.ctc.log_probs(encoder_out)[0, : encoder_out_lens[0]].argmax(dim=1).tolist()
        hypothesis = [key for key, _ in itertools.groupby(best) if key != 0]
        errors += edit_distance(example.tokens.tolist(), hypothesis)
        length += len(example.tokens)
    assert measured is not None
    assert measured.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured.ter == pytest.approx(errors / length)


def edit_distance(reference: list[int], hypothesis: list[int]) -> int:
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    substituted = edit_distance(reference[1:], hypothesis[1:]) + (reference[0] != hypothesis[0])
    if reference[0] == hypothesis[0]:
        return substituted
    return min(substituted, 1 + edit_distance(reference[1:], hypothesis), 1 + edit_distance(reference, hypothesis[1:]))


def test_no_speech_to_validate_on(
    experiment: Callable[..., ExperimentConfig], corpus: Path, tmp_path: Path, world: World
) -> None:
    setup = prepare(experiment(), [corpus / "train.jsonl"], [corpus / "dev.jsonl"])
    request = BatchRequest(epoch=0, window=0, batch=0, utterances=(), after=Position())
    with pytest.raises(TrainingError, match="dev"):
        validate(
            Spread(new_model(setup, tmp_path, print, world), ParallelConfig(), world),
            [Loaded(request=request, batch=None, skipped={"a": "broken"})],
            setup.tokenizer,
            contextlib.nullcontext,
            lambda: False,
        )
