"""Import of Whisper's checkpoints, whose encoder and decoders are trained further."""

import dataclasses
from pathlib import Path

import torch

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.card import Card
from unichoir.configuration import to_mapping
from unichoir.export.checkpoint import new_directory
from unichoir.formats.whisper.read import read_whisper
from unichoir.formats.whisper.to_network import WhisperOptions, decoder_weights, encoder_weights, our_config
from unichoir.formats.whisper.tokens import map_tokens
from unichoir.formats.whisper.vocabulary import read_vocabulary
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_weights, save_checkpoint
from unichoir.network.config import ModelConfig
from unichoir.network.facts import model_facts
from unichoir.text.tokenizer import load_tokenizer

LEAD_FRAMES = 2
"""Feature frames of zeros before an utterance, equal to the zero padding of Whisper's two convolutions."""


def import_whisper(source: Path, output: Path, tokenizer_folder: Path | None, options: WhisperOptions) -> list[str]:
    """Convert a Whisper checkpoint to ours.

    The files are config.yaml with model and fbank, model.safetensors, a card and the tokenizer.

    source: see `read_whisper`; it must contain Whisper's vocabulary if the decoders start from Whisper's. Without a
    tokenizer `output` only holds the encoder's weights, for `init_encoder`. Returns notes for the user. Raises
    CheckpointError, ConfigError or TokenizerError for what can't be read or doesn't fit; nothing is then written.
    """
    whisper = read_whisper(source)
    dims = whisper.dims
    tokenizer = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
    if tokenizer is None:
        options = dataclasses.replace(options, whisper_decoder=False)
    tokens, notes = None, []
    if tokenizer is not None and options.whisper_decoder:
        vocabulary = read_vocabulary(source if source.is_dir() else source.parent, dims.vocab_size)
        tokens = map_tokens(tokenizer, vocabulary)
        found = f"{tokens.num_found} of {tokens.num_pieces} pieces are also Whisper tokens"
        notes.append(f"{found}; the others start from the mean of the tokens that spell them")
    config = our_config(dims, tokenizer, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        # Without a vocabulary, the parts that depend on it are left out below.
        model = AsrModel(config.with_vocab_size(max(config.vocab_size, 1)))
    model.config = config
    weights = model.state_dict() | encoder_weights(whisper, merged=config.encoder.num_top_blocks > 0)
    if tokens is not None:
        weights |= decoder_weights(whisper, "left_decoder", config.decoder.num_blocks, tokens)
        if config.decoder.num_reverse_blocks:
            weights |= decoder_weights(whisper, "right_decoder", config.decoder.num_reverse_blocks, tokens)
    load_weights(model, weights, source)
    if tokenizer is None:
        weights = {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}
        notes.append("without --tokenizer: only the encoder is written, for `init_encoder` in training")
    # Copies, because several of our weights may be views of one of Whisper's.
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    fbank = FbankConfig(kind="whisper", num_mel_bins=dims.num_mel_bins, lead_frames=LEAD_FRAMES)
    with new_directory(output) as folder:
        if tokenizer is not None:
            tokenizer.save(folder)
        save_checkpoint(folder, model, {"fbank": to_mapping(fbank)}, weights)
        _card(source, output, config).write(folder)
    return notes


def _card(source: Path, output: Path, config: ModelConfig) -> Card:
    card = Card.new(output.resolve().name)
    how = f"import of Whisper ({source.resolve().name}), not trained since"
    facts = model_facts(config.with_vocab_size(max(config.vocab_size, 1)))
    if not config.vocab_size:
        facts = {"encoder": facts["encoder"], "holds": "the encoder alone"}
    card.state_model({**facts, "made by": how})
    return card
