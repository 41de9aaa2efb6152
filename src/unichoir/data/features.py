"""Features of utterances, optionally cached on disk."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from unichoir.audio.augment import narrow_band, perturb_speed
from unichoir.audio.fbank import FbankConfig, Features, compute_fbank
from unichoir.audio.io import Samples
from unichoir.bundle.replacing import replacing
from unichoir.data.storage import is_url
from unichoir.data.utterance import Utterance, load_utterance
from unichoir.errors import AudioError

# A part of every cache key. Increase it if the features of unchanged settings change.
CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureReader:
    """Log-mel features of utterances, with a cache for the finite choice of speeds and bandwidths.

    Decoding, resampling and the filterbank take longer than reading the result, so use `cache_dir` for training on a
    CPU. It holds one `.npy` per (utterance, speed, bandwidth), about 32 kB per second of speech, in float32: a cached
    epoch equals a computed one to the bit. The file name is a hash of the utterance's place in its audio file, that
    file's size and modification time, the speed, the bandwidth and the FbankConfig, so no outdated file is read. The
    content of a URL must not change: only the place in the file is part of the name.
    """

    fbank: FbankConfig = dataclasses.field(default_factory=FbankConfig)
    cache_dir: Path | None = None

    def samples(self, utterance: Utterance, speed: float = 1.0, narrowband: bool = False) -> Samples:
        """Return (N,) samples at the rate of the filterbank; narrowband: as over a telephone. Raises AudioError."""
        samples = load_utterance(utterance, self.fbank.sample_rate)
        if speed != 1.0:
            samples = perturb_speed(samples, speed)
        return narrow_band(samples, self.fbank.sample_rate) if narrowband else samples

    def features(self, utterance: Utterance, speed: float = 1.0, narrowband: bool = False) -> Features:
        """Return (T, M) features, from the cache if available. Raises AudioError."""
        if self.cache_dir is None:
            return compute_fbank(self.samples(utterance, speed, narrowband), self.fbank)
        path = self._cached(utterance, speed, narrowband)
        try:
            feats: Features = np.load(path)
            return feats
        except (OSError, ValueError, EOFError):  # missing, or damaged by a full disk: compute it again
            feats = compute_fbank(self.samples(utterance, speed, narrowband), self.fbank)
        self._store(path, feats)
        return feats

    def _cached(self, utterance: Utterance, speed: float, narrowband: bool) -> Path:
        identity = [
            CACHE_VERSION, *_file_identity(utterance.wav), utterance.byte_range, utterance.start, utterance.end,
            speed, narrowband, dataclasses.asdict(self.fbank),
        ]  # fmt: skip
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=20).hexdigest()
        assert self.cache_dir is not None
        # Two levels, because folders with a million files are slow.
        return self.cache_dir / digest[:2] / f"{digest[2:]}.npy"

    def _store(self, path: Path, feats: Features) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.save(file, feats)


def _file_identity(location: str) -> list[str | int | None]:
    """Return what identifies a file and its version; for a URL only what identifies the file."""
    if is_url(location):
        return [location, None, None]
    try:
        status = Path(location).stat()
    except OSError as error:
        raise AudioError(f"{location}: {error.strerror or error}") from None
    return [os.path.abspath(location), status.st_size, status.st_mtime_ns]
