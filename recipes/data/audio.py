"""Encoded audio -> a mono float waveform at one rate, and its length from the header alone. Knows no files, data sets or crops.

Shapes: T samples.
"""

import io
import math
import re
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile

from recipes.data.containers import streams_of
from recipes.data.manifest import Stretch
from recipes.data.media import Media, MediaKind, UndecodableError, decoding, reason_of
from recipes.errors import ConfigError

T = TypeVar("T")
FORMATS = {
    "AIFF": (".aif", ".aifc", ".aiff"),
    "AU": (".au", ".snd"),
    "AVR": (".avr",),
    "CAF": (".caf",),
    "FLAC": (".flac",),
    "IRCAM": (".sf",),
    "MP3": (".mp1", ".mp2", ".mp3"),
    "NIST": (".nist", ".sph"),
    "OGG": (".oga", ".ogg", ".opus"),
    "PAF": (".fap", ".paf"),
    "PVF": (".pvf",),
    "RF64": (".rf64",),
    "SVX": (".8svx", ".svx"),
    "VOC": (".voc",),
    "W64": (".w64",),
    "WAV": (".wav", ".wave"),
    "WAVEX": (".wav",),
}
"""What libsndfile calls a kind of file -> its suffixes."""
OTHER_FORMATS = ("HTK", "MAT4", "MAT5", "MPC2K", "RAW", "SD2", "SDS", "WVE", "XI")
"""Which libsndfile reads too, and we do not: features and matrices, samplers' formats, those without a header or a rate of their own."""
AUDIO = MediaKind(
    name="audio",
    suffixes=tuple(sorted({suffix for name in FORMATS if name in soundfile.available_formats() for suffix in FORMATS[name]})),
    sample=Path(__file__).resolve().parents[1] / "samples" / "speech",
    has_stretches=True,
)
NORM_EPSILON = 1e-5
UNKNOWN_WAV_LENGTH = 0x7FFF0000
"""Programs that write a .wav into a pipe put a number from here up in place of its length."""
MAX_KERNEL = 10_000_000
"""Weights of the resampling kernel, about the product of the rates divided by their common factor (44.1 to 16 kHz: 70,560)."""
MAX_SECONDS = 24 * 3600
"""A header that tells more is damaged."""
UNKNOWN_FRAMES = (1 << 63) - 1
"""libsndfile's, where the header does not tell it."""
STRETCH_SLACK_SECONDS = 0.1
"""A stretch may end so much after its recording: lists round."""


def read_audio(media: Media, index: int, sample_rate: int) -> np.ndarray:
    """The item's waveform, see decode_audio; of a long recording only its stretch is read. Raises: OSError, UndecodableError."""
    stretch = media.stretch(index)
    if stretch is None:
        return decode_audio(media.read(index), sample_rate)
    with media.open(index) as file:
        return decode_audio(file, sample_rate, stretch)


def decode_audio(content: bytes | BinaryIO, sample_rate: int, stretch: Stretch | None = None) -> np.ndarray:
    """The whole recording or a stretch of it as float32 (T,): the mean of its channels, resampled to sample_rate (Hz).

    Raises: UndecodableError for what is empty, not audio, truncated, or not finite.
    """
    parts = [_resample(frames_T, own_rate, sample_rate) for frames_T, own_rate in _open_each(content, sample_rate, stretch, _read)]
    waveform_T = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not np.isfinite(waveform_T).all():
        raise UndecodableError("holds NaN or infinite samples")
    return np.ascontiguousarray(waveform_T)


def scan_audio(content: bytes | BinaryIO, sample_rate: int, stretch: Stretch | None = None) -> int:
    """Samples that decode_audio gives at sample_rate (Hz), from the header. A .flac that is cut off in its middle passes here.

    Raises: UndecodableError for what is empty, not audio, or visibly truncated.
    """
    return sum(-(-num_frames * sample_rate // own_rate) for num_frames, own_rate in _open_each(content, sample_rate, stretch, _count))


def normalize(waveform_T: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the whole recording; silence stays silence.

    Source: fairseq data/audio/raw_audio_dataset.py (`normalize`: F.layer_norm over all samples, so the biased variance, eps 1e-5).
    """
    centred_T = waveform_T - waveform_T.mean(dtype=np.float64)
    return (centred_T / np.sqrt(np.square(centred_T).mean() + NORM_EPSILON)).astype(np.float32)


class _Quiet:
    """A file for libsndfile, which prints a traceback where a seek that a damaged header asks for raises."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._is_lost = file, False
        self.read = file.read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> None:
        """Stay where it is if there is no such place."""
        self._is_lost = True
        with suppress(ValueError, OSError):
            self._file.seek(offset, whence)
            self._is_lost = False

    def tell(self) -> int:
        """The place, or 0 at once after a seek that failed: what libsndfile is told where a callback raises."""
        is_lost, self._is_lost = self._is_lost, False
        return 0 if is_lost else self._file.tell()


def _open_each(content: bytes | BinaryIO, sample_rate: int, stretch: Stretch | None, use: Callable[..., T]) -> list[tuple[T, int]]:
    """use(sound, first frame, frames) and the rate of each stream; the only place where libsndfile is used."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with decoding():
        streams = streams_of(file)
        if stretch and len(streams) > 1:
            raise UndecodableError("a stretch of a chained .ogg, whose parts may have other rates; give the whole file")
        return [_use(stream, sample_rate, stretch, use) for stream in streams]


def _use(file: BinaryIO, sample_rate: int, stretch: Stretch | None, use: Callable[..., T]) -> tuple[T, int]:
    try:
        sound = soundfile.SoundFile(_Quiet(file))
    except soundfile.SoundFileError as error:
        file.seek(0)
        raise UndecodableError(f"not audio ({reason_of(error)})" if file.read(1) else "empty file") from error
    with sound:
        _check(sound, file, sample_rate)
        return use(sound, *_frames(sound, stretch)), sound.samplerate


def _count(sound: soundfile.SoundFile, first: int, num_frames: int) -> int:
    return num_frames


def _read(sound: soundfile.SoundFile, first: int, num_frames: int) -> np.ndarray:
    """The frames as float32 (T,)."""
    try:
        if sound.seekable():
            sound.seek(first)
        else:  # GSM 06.10, NMS ADPCM and G.72x are read from their start on
            sound.read(first, dtype="float32")
        frames_TC = sound.read(num_frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UndecodableError(f"truncated or damaged ({reason_of(error)})") from error
    if len(frames_TC) < num_frames:
        raise UndecodableError(f"truncated: {len(frames_TC)} of {num_frames} samples are there")
    return frames_TC[:, 0] if frames_TC.shape[1] == 1 else frames_TC.mean(axis=1)


def _frames(sound: soundfile.SoundFile, stretch: Stretch | None) -> tuple[int, int]:
    """Number of the first one, and how many. Raises: UndecodableError for a stretch that is not in the recording."""
    if stretch is None:
        return 0, sound.frames
    rate, seconds = sound.samplerate, sound.frames / sound.samplerate
    end = seconds if stretch.seconds is None else stretch.start + stretch.seconds
    if not 0 <= stretch.start < min(end, seconds) or end > seconds + STRETCH_SLACK_SECONDS:
        raise UndecodableError(f"{stretch.start:g} to {end:g} s is no stretch of its {seconds:g} s")
    first = round(stretch.start * rate)
    num_frames = min(round(end * rate), sound.frames) - first
    if num_frames < 1:
        raise UndecodableError(f"{stretch.start:g} to {end:g} s is less than a sample")
    return first, num_frames


def _check(sound: soundfile.SoundFile, file: BinaryIO, sample_rate: int) -> None:
    """Raises: UndecodableError for what should not be read."""
    _check_whole(sound, file)
    if not sound.frames:
        raise UndecodableError("no samples in it")
    if sound.frames == UNKNOWN_FRAMES:
        raise UndecodableError("its header does not tell its length")
    if sound.frames > MAX_SECONDS * sound.samplerate:
        raise UndecodableError(f"its header tells more than {MAX_SECONDS // 3600} hours")
    if sound.samplerate * sample_rate // math.gcd(sound.samplerate, sample_rate) ** 2 > MAX_KERNEL:
        raise UndecodableError(f"its rate of {sound.samplerate} Hz is too odd a part of {sample_rate} Hz")


def _check_whole(sound: soundfile.SoundFile, file: BinaryIO) -> None:
    """libsndfile shortens the recording to what is there, and says so in its log only."""
    found = re.search(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < UNKNOWN_WAV_LENGTH and not _is_slip(int(found[1]), file):
        raise UndecodableError(f"truncated: {found[2]} of {found[1]} bytes of samples are there")


def _is_slip(num_bytes: int, file: BinaryIO) -> bool:
    """Whether the samples' length counts headers too, by a slip of the program that wrote it: the outer length fits the file."""
    position = file.tell()  # libsndfile's, which reads on from there
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind, outer = file.read(4), int.from_bytes(file.read(4), "little")
    file.seek(position)
    return kind == b"RIFF" and num_bytes <= size and (outer + 8 <= size or outer == size)


def _resample(waveform_T: np.ndarray, own_rate: int, sample_rate: int) -> np.ndarray:
    if own_rate == sample_rate:
        return waveform_T
    import torch  # here, so that scanning needs neither

    try:
        from torchaudio.functional import resample
    except OSError as error:
        compiled = Path(sysconfig.get_path("purelib"), "torchaudio", "lib")
        raise ConfigError(
            f"torchaudio cannot be imported ({str(error).splitlines()[0]}), which resamples {own_rate} to {sample_rate} Hz; its compiled "
            f"part does not fit this torch: remove *.so in {compiled}, as `make .venv` does"
        ) from error
    return resample(torch.from_numpy(np.ascontiguousarray(waveform_T)), own_rate, sample_rate).numpy()
