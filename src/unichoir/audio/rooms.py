"""Reverberation: impulse responses of shoebox rooms, computed with the image source method of `pyroomacoustics`."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.augment import CEILING, RoomConfig
from unichoir.audio.io import Samples
from unichoir.audio.noises import fast_length, mean_power
from unichoir.extras import training_extras

_WALL_DISTANCE = 0.3
"""Minimum distance in metres of speakers and microphones from walls."""
_FLOOR_AND_CEILING = (2.4, CEILING)
"""Range of ceiling heights in metres."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """An impulse response at a microphone."""

    taps: Samples
    """Samples of the response, (L,)."""
    direct: int
    """Index of the sample at which the direct path arrives."""


def draw_responses(config: RoomConfig, sample_rate: int, seed: int) -> list[Response]:
    """Return `config.num_responses` impulse responses at `sample_rate` Hz. Equal arguments give equal responses.

    Each response belongs to a new room. Its sides, height and reverberation time, and the distance and places of
    speaker and microphone, are drawn uniformly. All walls absorb equally, according to Sabine's formula.

    Raises:
        UnichoirError: `pyroomacoustics` is not installed.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x500D]))
    return [_draw_response(config, sample_rate, rng) for _ in range(config.num_responses)]


def reverberate(samples: Samples, response: Response) -> Samples:
    """Return (N,) samples with reverberation. The direct path has no delay, and the mean power doesn't change.

    Reverberation after the last sample is cut off.
    """
    length = fast_length(len(samples) + len(response.taps) - 1)
    spectrum = np.fft.rfft(samples, length) * np.fft.rfft(response.taps, length)
    heard = np.fft.irfft(spectrum, length)[response.direct : response.direct + len(samples)].astype(np.float32)
    before, after = mean_power(samples), mean_power(heard)
    if after > 0:
        heard *= np.float32(np.sqrt(before / after))
    return heard


def _draw_response(config: RoomConfig, sample_rate: int, rng: np.random.Generator) -> Response:
    with training_extras("augment.rooms"):
        import pyroomacoustics
    # Sums over several threads could differ between machines.
    pyroomacoustics.constants.set("num_threads", 1)
    room_size = np.array([*rng.uniform(config.min_side, config.max_side, 2), rng.uniform(*_FLOOR_AND_CEILING)])
    rt60 = rng.uniform(config.min_rt60, config.max_rt60)
    speaker, microphone = _draw_places(config, room_size, rng)
    absorption, max_order = pyroomacoustics.inverse_sabine(rt60, room_size)
    room = pyroomacoustics.ShoeBox(
        room_size, fs=sample_rate, materials=pyroomacoustics.Material(absorption), max_order=max_order
    )
    room.add_source(speaker)
    room.add_microphone(microphone)
    room.compute_rir()
    # The library delays everything by half of its fractional delay filter.
    filter_delay = pyroomacoustics.constants.get("frac_delay_length") // 2
    direct = filter_delay + round(float(np.linalg.norm(speaker - microphone)) / room.c * sample_rate)
    # It also continues until the farthest image, long after everything has faded by 60 dB.
    taps = room.rir[0][0][: direct + round(rt60 * sample_rate)]
    return Response(taps=np.asarray(taps, dtype=np.float32), direct=direct)


def _draw_places(
    config: RoomConfig, room_size: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places (3,), (3,) of a speaker and a microphone inside the room."""
    low, high = np.full(3, _WALL_DISTANCE), room_size - _WALL_DISTANCE
    while True:
        microphone = rng.uniform(low, high)
        direction = rng.standard_normal(3)
        distance = rng.uniform(config.min_distance, config.max_distance)
        speaker = microphone + direction * (distance / np.linalg.norm(direction))
        if ((low <= speaker) & (speaker <= high)).all():
            return speaker, microphone
