"""Real speech for splitting a dense model into experts (`network/split.py`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from unichoir.audio.fbank import FbankConfig
from unichoir.data.dataset import DataConfig, ExampleReader, FrameRate, measure_durations
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance, read_manifest
from unichoir.errors import TrainingError
from unichoir.network.asr_model import AsrModel, add_sos_eos, reverse_tokens
from unichoir.network.split import SplitOptions, split_config, split_into_experts
from unichoir.text.tokenizer import Tokenizer
from unichoir.training.corpus import ListedCorpus
from unichoir.training.feeding import BatchDataset, Loaded, Position, requests
from unichoir.training.setup import check_languages
from unichoir.training.validation import to_device

Progress = Callable[[int, int], None]
"""A function that is called with (done, total)."""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """The result of a split, and the speech used for it."""

    model: AsrModel
    num_utterances: int
    """Number of utterances used."""
    skipped: dict[str, str]
    """Utterances that cannot be used, by key, and the reasons."""


def split_on_speech(
    model: AsrModel,
    fbank: FbankConfig,
    tokenizer: Tokenizer,
    manifest: str,
    options: SplitOptions,
    *,
    num_utterances: int = 300,
    seed: int = 0,
    heard: Progress | None = None,
    split: Progress | None = None,
) -> SplitResult:
    """Split a dense model by what its layers compute on utterances of a manifest.

    Args:
        model: a dense model in evaluation mode.
        manifest: path or URL, see `read_manifest`.
        num_utterances: largest number of utterances, drawn at random.
        heard: reports progress in utterances.
        split: reports progress in layers.

    Raises:
        ConfigError: like `split_config`, before any audio is read, and for a language without a token.
        ManifestError: the manifest cannot be read.
        TrainingError: no utterance can be used.
    """
    split_config(model.config, options)
    chosen = draw_utterances(read_manifest(manifest), num_utterances, seed)
    check_languages(chosen, tokenizer)
    utterances, broken = measure_durations(chosen)
    skipped = {each.key: each.reason for each in broken}
    encoder = model.config.encoder
    reader = ExampleReader(
        (),
        tokenizer=tokenizer,
        features=FeatureReader(fbank=fbank),
        data=DataConfig(),
        languages=tokenizer.languages,
        frame_rate=FrameRate(subsampling_rate=encoder.subsampling_rate, right_context=encoder.right_context),
    )

    def run() -> Iterator[None]:
        dataset, done = BatchDataset(reader), 0
        for request in requests(ListedCorpus(utterances), reader, Position(), shuffle=False):
            loaded = dataset[request]
            skipped.update(loaded.skipped)
            _run_all_layers(model, loaded)
            done += len(request.utterances)
            if heard:
                heard(done, len(utterances))
            yield
        if len(skipped) == len(chosen):
            key, reason = next(iter(skipped.items()))
            raise TrainingError(f"{manifest}: none of {len(chosen)} utterances can be used; {key}: {reason}")

    sparse = split_into_experts(model, run, options, split)
    return SplitResult(model=sparse, num_utterances=len(chosen) - len(skipped), skipped=skipped)


def draw_utterances(utterances: list[Utterance], count: int, seed: int) -> list[Utterance]:
    """Return up to `count` utterances in order, drawn evenly, because the first ones may all have the same speaker."""
    if len(utterances) <= count:
        return utterances
    chosen = np.random.default_rng(seed).choice(len(utterances), count, replace=False)
    return [utterances[place] for place in sorted(chosen.tolist())]


def _run_all_layers(model: AsrModel, loaded: Loaded) -> None:
    """Run a batch through the encoder and both decoders, even a right-to-left decoder without a loss."""
    if loaded.batch is None:
        return
    config = model.config
    feats, feats_lengths, tokens, token_lengths = to_device(loaded.batch, torch.device("cpu"))
    encoder_out, encoder_out_lens, _ = model.encoder(feats, feats_lengths)
    memory = model.decoder_memory(encoder_out, encoder_out_lens, model.ctc.log_probs(encoder_out))
    for decoder, ordered in (
        (model.left_decoder, tokens),
        (model.right_decoder, reverse_tokens(tokens, token_lengths)),
    ):
        if decoder is not None:
            tokens_in, _ = add_sos_eos(ordered, token_lengths, config.sos_id, config.eos_id)
            decoder(*memory, tokens_in, token_lengths + 1)
