"""Prepares recordings: checks the lengths that a recipe uses. media_folder.py writes the prepared folder. Does not import torch."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from model.config import SpanMaskConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.data.audio import AUDIO, scan_audio
from recipes.data.contents import ResumedRun
from recipes.data.media_folder import prepare_media
from recipes.data_config import SpeechDataConfig
from recipes.errors import ConfigError


def prepare_speech(
    data: SpeechDataConfig,
    frontend: SpeechFrontendConfig,
    out_dir: Path,
    *,
    num_processes: int | None = None,
    progress: bool = False,
    log: Callable[[str], None] = lambda line: None,
    run: ResumedRun | None = None,
) -> Path:
    """Return the prepared folder for `data`: the one that data.path names, an earlier one at out_dir, or a new one at out_dir. Recordings
    that cannot be read, or are shorter than data.min_seconds or one frame, are left out.

    Raises: ConfigError for everything that the user can fix.
    """
    if data.sample_rate < 1:
        raise ConfigError(f"data.sample_rate {data.sample_rate} is no rate in Hz; the published one is 16000")
    if data.min_seconds < 0 or longest_samples(data) < shortest_samples(data, frontend):
        raise ConfigError(
            f"data.min_seconds {data.min_seconds:g} to data.max_seconds {data.max_seconds:g} is no range of lengths above one frame's "
            f"{frontend.receptive_field} samples; the published ones are 2 and 20"
        )
    return prepare_media(
        data,
        AUDIO,
        out_dir,
        scan=partial(scan_audio, sample_rate=data.sample_rate),
        settings={"data.sample_rate": data.sample_rate, "data.min_seconds": data.min_seconds},
        min_length=shortest_samples(data, frontend),
        if_all_short=partial(_if_all_short, data),
        num_processes=num_processes,
        progress=progress,
        log=log,
        run=run,
    )


def _if_all_short(data: SpeechDataConfig, shortest: int, longest: int) -> str:
    """Return the end of the error message for the case that all recordings are too short. `shortest`, `longest`: the smallest and the
    largest length in samples. The message proposes data.min_seconds, rounded down to hundredths so that no recording is shorter."""
    seconds = math.floor(100 * shortest / data.sample_rate) / 100
    found = f"data.min_seconds is {data.min_seconds:g}, the longest has {longest / data.sample_rate:.3g} s"
    return f"{found}; --set data.min_seconds={seconds:g} uses all, or point --data at longer recordings"


def shortest_samples(data: SpeechDataConfig, frontend: SpeechFrontendConfig) -> int:
    """Return the number of samples of the shortest recording that is used: data.min_seconds, but at least one frame."""
    return max(math.ceil(data.min_seconds * data.sample_rate), frontend.receptive_field)


def longest_samples(data: SpeechDataConfig) -> int:
    """Return the number of samples of the longest crop: data.max_seconds."""
    return math.floor(data.max_seconds * data.sample_rate)


def check_mask(data: SpeechDataConfig, frontend: SpeechFrontendConfig, mask: SpanMaskConfig) -> None:
    """Check that no mask can cover all frames of the shortest recording that is used. Raises: ConfigError if a mask can."""
    num_frames = frontend.num_frames(shortest_samples(data, frontend))
    if _leaves_frames(num_frames, mask):
        return
    enough = next((n for n in range(num_frames, 100 * (num_frames + mask.length + mask.min_masks)) if _leaves_frames(n, mask)), None)
    remedy = "--set mask.prob lower"
    if enough is not None:
        samples = frontend.receptive_field + (enough - 1) * frontend.stride
        remedy = f"--set data.min_seconds={math.ceil(100 * samples / data.sample_rate) / 100:g} or a shorter mask.length"
    raise ConfigError(
        f"data.min_seconds {data.min_seconds:g} gives {num_frames} frames, which {mask.min_masks} or more spans of mask.length "
        f"{mask.length} at mask.prob {mask.prob:g} may cover whole; {remedy}"
    )


def _leaves_frames(num_frames: int, mask: SpanMaskConfig) -> bool:
    """True if every mask of a recording with num_frames frames leaves at least one frame unmasked. Then the same is true of longer
    recordings. The condition is that a span has more possible starts than there are spans."""
    return num_frames - mask.length > max(mask.min_masks, int(mask.prob * num_frames / mask.length + 1))
