"""The errors that unichoir raises. Each names the affected input, in one line."""


class UnichoirError(Exception):
    """Base class of all errors that unichoir raises on purpose."""


class AudioError(UnichoirError):
    """Audio that cannot be read or recognised: missing, truncated, empty, not finite, or of an invalid rate."""


class AudioTooLong(AudioError):
    """Audio that exceeds the maximum length or number of samples."""


class ConfigError(UnichoirError):
    """A configuration with an unknown key, a missing key or an invalid value."""


class ManifestError(UnichoirError):
    """A list of utterances that cannot be read. The message names the file and the line."""


class TokenizerError(UnichoirError):
    """A vocabulary or tokenizer model that is missing, malformed or doesn't fit."""


class CheckpointError(UnichoirError):
    """Weights or a model directory that are missing, incomplete or don't fit the configuration."""


class DecodingError(UnichoirError):
    """Recognition options that the model or the search doesn't support."""


class DownloadError(UnichoirError):
    """A file that cannot be fetched: no connection, an error of the server, or another size or SHA-256."""


class TrainingError(UnichoirError):
    """Training that cannot continue: no usable data, a loss that is not finite, or a checkpoint that doesn't fit."""
