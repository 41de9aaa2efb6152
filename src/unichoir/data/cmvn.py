"""Global mean and variance of features, in WeNet's `global_cmvn` format."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unichoir.bundle.replacing import replace_text
from unichoir.data.dataset import Skipped
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance
from unichoir.errors import AudioError, ConfigError

VARIANCE_FLOOR = 1e-20


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalCmvn:
    """Sums over all frames of a corpus, which determine mean and variance."""

    mean_stat: NDArray[np.float64]
    """(M,) sum of the features."""
    var_stat: NDArray[np.float64]
    """(M,) sum of the squared features."""
    frame_num: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """(M,) mean of the features."""
        return self.mean_stat / self.frame_num

    @property
    def istd(self) -> NDArray[np.float64]:
        """(M,) inverse of the standard deviation, whose square is at least 1e-20."""
        variance = self.var_stat / self.frame_num - self.mean**2
        return 1.0 / np.sqrt(np.maximum(variance, VARIANCE_FLOOR))

    def save(self, path: str | Path) -> None:
        """Write WeNet's JSON."""
        content = {
            "mean_stat": self.mean_stat.tolist(),
            "var_stat": self.var_stat.tolist(),
            "frame_num": self.frame_num,
        }
        replace_text(Path(path), json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "GlobalCmvn":
        """Read WeNet's JSON. Raises ConfigError, naming the file."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            mean_stat = np.array(content["mean_stat"], dtype=np.float64)
            var_stat = np.array(content["var_stat"], dtype=np.float64)
            frame_num = int(content["frame_num"])
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: not CMVN statistics ({type(error).__name__}: {error})") from None
        if mean_stat.ndim != 1 or mean_stat.shape != var_stat.shape or frame_num < 1:
            raise ConfigError(f"{path}: mean_stat and var_stat must be lists of one length, frame_num at least 1")
        if not (np.isfinite(mean_stat).all() and np.isfinite(var_stat).all()):
            raise ConfigError(f"{path}: the statistics are not finite")
        return cls(mean_stat=mean_stat, var_stat=var_stat, frame_num=frame_num)


def compute_cmvn(
    utterances: Sequence[Utterance], features: FeatureReader, progress: Callable[[int, int], None] | None = None
) -> tuple[GlobalCmvn, list[Skipped]]:
    """Return the statistics of all utterances at their original speed, and the utterances with unreadable audio.

    Args:
        progress: called with (done, total) after each utterance.

    Raises:
        AudioError: no frame could be read.
    """
    sums, skipped = sum_features(utterances, features, progress)
    if not sums.frame_num:
        raise AudioError(f"no audio could be read from {len(utterances)} utterances")
    return sums, skipped


def sum_features(
    utterances: Sequence[Utterance], features: FeatureReader, progress: Callable[[int, int], None] | None = None
) -> tuple[GlobalCmvn, list[Skipped]]:
    """Like `compute_cmvn` for a part of a corpus, which may have no frames."""
    mean_stat = np.zeros(features.fbank.num_mel_bins)
    var_stat = np.zeros(features.fbank.num_mel_bins)
    frame_num = 0
    skipped: list[Skipped] = []
    for done, utterance in enumerate(utterances, start=1):
        try:
            feats = features.fbank.drop_edges(features.features(utterance)).astype(np.float64)
            mean_stat += feats.sum(axis=0)
            var_stat += np.square(feats).sum(axis=0)
            frame_num += len(feats)
        except AudioError as error:
            skipped.append(Skipped(key=utterance.key, reason=str(error)))
        if progress:
            progress(done, len(utterances))
    return GlobalCmvn(mean_stat=mean_stat, var_stat=var_stat, frame_num=frame_num), skipped
