"""Features of utterances, computed once and kept on disk when wished."""

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from unichoir.audio.augment import narrow_band, perturb_speed
from unichoir.audio.fbank import FbankConfig, Features, compute_fbank
from unichoir.audio.io import Samples
from unichoir.data.manifest import Utterance, load_utterance
from unichoir.errors import AudioError

# Part of every cache key: raise it when the features of unchanged settings change.
CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureReader:
    """Log-mel features of utterances, with a cache for the finite choice of speeds and bandwidths.

    Decoding, resampling and the filterbank cost more than reading the result back, so training on CPU wants
    `cache_dir`: one `.npy` per (utterance, speed, bandwidth), about 32 kB per second of speech; float32, so that a
    cached epoch equals a computed one to the bit. The file's name is a hash of the place of the utterance in its audio
    file, that file's size and time of change, the speed, the bandwidth and the FbankConfig: nothing stale is ever read.
    """

    fbank: FbankConfig = dataclasses.field(default_factory=FbankConfig)
    cache_dir: Path | None = None

    def samples(self, utterance: Utterance, speed: float = 1.0, narrowband: bool = False) -> Samples:
        """(N,) samples at the rate of the filterbank; narrowband: as over a telephone. Raises AudioError."""
        samples = load_utterance(utterance, self.fbank.sample_rate)
        if speed != 1.0:
            samples = perturb_speed(samples, speed)
        return narrow_band(samples, self.fbank.sample_rate) if narrowband else samples

    def features(self, utterance: Utterance, speed: float = 1.0, narrowband: bool = False) -> Features:
        """(T, M) features, from the cache when they are there. Raises AudioError."""
        if self.cache_dir is None:
            return compute_fbank(self.samples(utterance, speed, narrowband), self.fbank)
        path = self._cached(utterance, speed, narrowband)
        try:
            feats: Features = np.load(path)
            return feats
        except (OSError, ValueError, EOFError):  # not there yet, or damaged by a full disk: computed again
            feats = compute_fbank(self.samples(utterance, speed, narrowband), self.fbank)
        self._store(path, feats)
        return feats

    def _cached(self, utterance: Utterance, speed: float, narrowband: bool) -> Path:
        try:
            status = Path(utterance.wav).stat()
        except OSError as error:
            raise AudioError(f"{utterance.wav}: {error.strerror or error}") from None
        identity = [
            CACHE_VERSION, os.path.abspath(utterance.wav), status.st_size, status.st_mtime_ns, utterance.byte_range,
            utterance.start, utterance.end, speed, narrowband, dataclasses.asdict(self.fbank),
        ]  # fmt: skip
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=20).hexdigest()
        assert self.cache_dir is not None
        # Two levels: folders of a million files are slow to work with.
        return self.cache_dir / digest[:2] / f"{digest[2:]}.npy"

    def _store(self, path: Path, feats: Features) -> None:
        """Whole or not at all, also when several processes write the same file or one is killed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.save(file, feats)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                file.close()
                Path(file.name).unlink(missing_ok=True)
                raise
