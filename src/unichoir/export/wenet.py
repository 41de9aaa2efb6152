"""Conversion between WeNet's checkpoint directories and ours, with tokenizer and filterbank."""

import shutil
from pathlib import Path
from typing import Any

from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import to_mapping
from unichoir.errors import CheckpointError, ConfigError
from unichoir.export.card import derived_card
from unichoir.export.checkpoint import (
    check_parts_fit,
    load_any_checkpoint,
    new_directory,
    wenet_fbank,
    wenet_tokenizer_files,
)
from unichoir.formats.wenet.checkpoint import CONFIG_FILE, load_wenet, save_wenet
from unichoir.formats.wenet.notes import notes_of_import
from unichoir.network.checkpoint import save_checkpoint
from unichoir.text.tokenizer import BPE_FILE, BpeTokenizer, Tokenizer, load_tokenizer
from unichoir.text.units import UNITS_FILE


def import_wenet(source: Path, output: Path) -> list[str]:
    """Convert a WeNet checkpoint to ours.

    The files are config.yaml with model and fbank, model.safetensors, units.txt and, for BPE, bpe.model.

    Weights keep their values to the bit; float16 and bfloat16 are widened to float32. Returns notes about settings that
    are not kept, or whose effect differs. Raises ConfigError or CheckpointError, naming what can't be read or
    represented, CheckpointError for an `output` that holds something; nothing is then written.
    """
    wenet = load_wenet(source)
    path = source / CONFIG_FILE
    fbank = wenet_fbank(wenet.conf, path)
    files = wenet_tokenizer_files(source, wenet.conf, path)
    is_bpe = BPE_FILE in files or wenet.conf.get("tokenizer") == "bpe"
    notes = notes_of_import(wenet.conf, of_characters=not is_bpe)
    with new_directory(output) as folder:
        for name, file in files.items():
            shutil.copyfile(file, folder / name)
        tokenizer = load_tokenizer(folder)
        check_parts_fit(wenet.model, tokenizer, fbank, source)
        save_checkpoint(folder, wenet.model, {"fbank": to_mapping(fbank)})
        derived_card(source, output, wenet.model.config, "import of a WeNet checkpoint").write(folder)
    if BPE_FILE not in files and (is_bpe or isinstance(tokenizer, BpeTokenizer)):
        where = f"{source}: no {BPE_FILE} and no file from tokenizer_conf.bpe_path"
        notes.append(f"{where}: the model can recognise, but not train")
    return notes


def export_wenet(source: Path, output: Path) -> list[str]:
    """Convert our checkpoint to WeNet's: train.yaml, final.pt, units.txt, global_cmvn and, for BPE, bpe.model.

    Paths in train.yaml are relative to the folder. Returns notes for the user. Raises ConfigError or CheckpointError,
    naming the key, the weight or the token that WeNet has no counterpart for; nothing is then written.
    """
    model, fbank = load_any_checkpoint(source)
    tokenizer = load_tokenizer(source)
    check_parts_fit(model, tokenizer, fbank, source)
    sections = {
        "dataset": "asr",
        "dataset_conf": _dataset_section(fbank),
        **_tokenizer_sections(tokenizer, source),
    }
    special = {"<blank>": model.config.blank_id, "<unk>": tokenizer.unk_id}
    special |= {"<sos>": model.config.sos_id, "<eos>": model.config.eos_id}
    sections["tokenizer_conf"]["special_tokens"] = special
    with new_directory(output) as folder:
        save_wenet(folder, model, sections)
        tokenizer.save(folder)
    notes = []
    if isinstance(tokenizer, BpeTokenizer) and any(token != token.upper() for token in tokenizer.tokens[3:]):
        notes.append("WeNet turns text into upper case before BPE: with these tokens it can recognise, but not train")
    if isinstance(tokenizer, BpeTokenizer) and tokenizer.model is None:
        notes.append(f"{source}: no {BPE_FILE}: WeNet can recognise with the model, but not train it")
    return notes


def _dataset_section(fbank: FbankConfig) -> dict[str, Any]:
    """Return `dataset_conf`, which `wenet_fbank` reads. Raises ConfigError for what WeNet can't express."""
    feats_type, more = "fbank", {}
    band: dict[str, tuple[object, ...]] = {"low_freq": (20.0,), "high_freq": (0.0,)}
    if fbank.kind == "mfcc":
        feats_type, band = "mfcc", {}
        more = {"num_ceps": fbank.num_mel_bins, "low_freq": fbank.low_freq, "high_freq": fbank.high_freq}
    edges: dict[str, tuple[object, ...]] = {"lead_frames": (0,), "trail_frames": (0,)}
    allowed = {"kind": ("kaldi", "mfcc"), **edges, **band, "snip_edges": (True,)}
    for name, values in allowed.items():
        if getattr(fbank, name) not in values:
            only = f"cannot be represented in WeNet (only {', '.join(map(repr, values))})"
            raise ConfigError(f"fbank.{name}: {getattr(fbank, name)!r} {only}")
    return {
        "feats_type": feats_type,
        f"{feats_type}_conf": {
            "num_mel_bins": fbank.num_mel_bins,
            "frame_length": fbank.frame_length_ms,
            "frame_shift": fbank.frame_shift_ms,
            "dither": 0.0,
            **more,
        },
        "resample_conf": {"resample_rate": fbank.sample_rate},
        # WeNet's recognition sets keys of these two, and fails if they are missing.
        "filter_conf": {},
        "batch_conf": {"batch_type": "static", "batch_size": 1},
    }


def _tokenizer_sections(tokenizer: Tokenizer, source: Path) -> dict[str, Any]:
    """Return `tokenizer` and `tokenizer_conf`. Raises CheckpointError for tokens that WeNet doesn't support."""
    if tokenizer.languages:
        token = f"<|{next(iter(tokenizer.languages))}|>"
        raise CheckpointError(f"{source / UNITS_FILE}: WeNet has no tokens of languages ('{token}')")
    if "<0x00>" in tokenizer.tokens:
        raise CheckpointError(f"{source / UNITS_FILE}: WeNet does not spell in bytes ('<0x00>')")
    conf: dict[str, Any] = {"symbol_table_path": UNITS_FILE, "non_lang_syms_path": None, "split_with_space": False}
    if isinstance(tokenizer, BpeTokenizer):
        return {"tokenizer": "bpe", "tokenizer_conf": {**conf, "bpe_path": BPE_FILE}}
    return {"tokenizer": "char", "tokenizer_conf": conf}
