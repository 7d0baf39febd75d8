"""Resamples waveforms, and finds which frames a part of a resampled waveform is computed from. Reads no files.

Shapes: T samples.
"""

import math
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recipes.errors import ConfigError

KERNEL_CROSSINGS, ROLLOFF = 6, 0.99
"""Half the width of torchaudio's resampling kernel in zero crossings, and the share of the lower rate's band that it keeps: the defaults
of torchaudio.functional.resample. A sample depends on no sample further away."""


class Crop(NamedTuple):
    """A part of an item, in samples at the rate after resampling."""

    start: int
    num_samples: int

    def frames(self, own_rate: int, sample_rate: int) -> tuple[int, int, int]:
        """Return (first frame, frame after the last, first sample of the crop in what they become) of the frames at own_rate (Hz) on which
        the crop depends at sample_rate (Hz). They may go beyond the end of the recording.

        Resampled are whole blocks, the shortest times that are a whole number of samples at both rates, so that the kernel has the same
        phases as in the whole waveform; and as many blocks around the crop as the kernel is wide.
        """
        shared = math.gcd(own_rate, sample_rate)
        block, new_block = own_rate // shared, sample_rate // shared
        margin = 1 + math.ceil(KERNEL_CROSSINGS / (min(block, new_block) * ROLLOFF))
        first = max(0, self.start // new_block - margin)
        last = -(-(self.start + self.num_samples) // new_block) + margin
        return first * block, last * block, self.start - first * new_block


def resample(waveform_T: np.ndarray, own_rate: int, sample_rate: int) -> np.ndarray:
    """Return the waveform with sample_rate samples per second in place of own_rate. Raises: ConfigError if torchaudio, which is needed for
    that, cannot be imported."""
    if own_rate == sample_rate:
        return waveform_T
    import torch  # imported here, so that scanning needs neither torch nor torchaudio

    try:
        from torchaudio.functional import resample
    except OSError as error:
        compiled = Path(sysconfig.get_path("purelib"), "torchaudio", "lib")
        raise ConfigError(
            f"torchaudio cannot be imported ({str(error).splitlines()[0]}), which resamples {own_rate} to {sample_rate} Hz; its compiled "
            f"part does not fit this torch: remove *.so in {compiled}, as `make .venv` does"
        ) from error
    return resample(torch.from_numpy(np.ascontiguousarray(waveform_T)), own_rate, sample_rate).numpy()
