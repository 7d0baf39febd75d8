"""Synthetic recordings for the tests of audio data: noise of given lengths in any format of soundfile, and a small speech data set."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from model.config import SpanMaskConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.data.speech import SpeechDataset
from recipes.data.speech_folder import prepare_speech
from recipes.data_config import SpeechDataConfig

RATE = 16_000
BLOCK = 1 << 16
"""Samples that are written at once. libsndfile ends the process if a minute of .ogg is."""
FRONTEND = SpeechFrontendConfig(conv_kernels=(10, 3), conv_strides=(5, 2))
"""Settings of a frontend whose frames are 20 samples long and begin every 10 samples."""
MASK = SpanMaskConfig(prob=0.65, length=5)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    """Return random noise with standard deviation 0.1. Shapes: float32 (num_samples,)."""
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def encode(waveform: np.ndarray, kind: str = "wav", *, rate: int = RATE, subtype: str | None = None) -> bytes:
    """Return the waveform as the bytes of a sound file of this kind, such as "wav". `rate`: samples per second."""
    file, channels = io.BytesIO(), 1 if waveform.ndim == 1 else waveform.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=kind.upper()) as sound:
        for start in range(0, len(waveform), BLOCK):
            sound.write(waveform[start : start + BLOCK])
    return file.getvalue()


def write_recordings(folder: Path, lengths: list[int], kind: str = "wav") -> Path:
    """Write files of noise, 000.KIND, 001.KIND, ..., with these numbers of samples, into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(lengths):
        (folder / f"{number:03}.{kind}").write_bytes(encode(noise(length, number), kind))
    return folder


def clips_config(folder: Path) -> SpeechDataConfig:
    """Return data settings that use recordings of 400 samples and more, in groups of 4, cropped to at most 1600 samples."""
    return SpeechDataConfig(path=str(folder), min_seconds=400 / RATE, max_seconds=0.1, group_size=4, heldout_fraction=0.1)


def open_split(clips: SpeechDataConfig, out_dir: Path, *, split: Any = "train", seed: int = 1) -> SpeechDataset:
    """Return a split of the speech data set. It is prepared into `out_dir` first if that was not done."""
    folder = prepare_speech(clips, FRONTEND, out_dir, num_processes=1)
    return SpeechDataset(folder, split, frontend=FRONTEND, mask=MASK, data=clips, seed=seed)
