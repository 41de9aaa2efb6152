"""The errors a caller of unichoir may meet: every one names the input it is about, in one line."""


class UnichoirError(Exception):
    """Base of all errors raised on purpose by unichoir."""


class AudioError(UnichoirError):
    """Audio that cannot be read or recognised: missing, truncated, empty, not finite, of an unusable rate."""


class AudioTooLong(AudioError):
    """Audio that lasts longer, or has more samples, than there may be."""


class ConfigError(UnichoirError):
    """A configuration with an unknown key, a missing key or a value that makes no sense."""


class ManifestError(UnichoirError):
    """A list of utterances that cannot be read; names the file and the line."""


class TokenizerError(UnichoirError):
    """A vocabulary or tokenizer model that is missing, malformed or does not fit."""


class CheckpointError(UnichoirError):
    """Weights or a model directory that are missing, incomplete or do not fit the configuration."""


class DecodingError(UnichoirError):
    """Options of recognition that the model or the search cannot fulfil."""


class TrainingError(UnichoirError):
    """Training that cannot go on: no usable data, a loss that is not finite, a checkpoint that does not fit."""
