"""Decodes audio files to a mono float waveform at one sample rate, or gets only its length, from the header. Data sets are opened in
media_source.py, crops are made in speech.py.

Shapes: T samples.
"""

import io
import math
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import soundfile

from recipes.data.containers import streams_of
from recipes.data.manifest import Segment
from recipes.data.media import Media, MediaKind, UndecodableError, decoding, reason_of
from recipes.data.resampling import Crop, resample

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
"""Accepted audio formats: libsndfile's name of the format -> its file suffixes."""
OTHER_FORMATS = ("HTK", "MAT4", "MAT5", "MPC2K", "RAW", "SD2", "SDS", "WVE", "XI")
"""Formats that libsndfile can read and that are not accepted: features and matrices, formats of samplers, formats without a header or
without a sample rate."""
AUDIO = MediaKind(
    name="audio",
    suffixes=tuple(sorted({suffix for name in FORMATS if name in soundfile.available_formats() for suffix in FORMATS[name]})),
    sample=Path(__file__).resolve().parents[1] / "samples" / "speech",
    has_segments=True,
)
NORM_EPSILON = 1e-5
UNKNOWN_WAV_LENGTH = 0x7FFF0000
"""A program that writes a .wav into a pipe cannot know its length. It writes this number or a larger one in its place."""
MAX_KERNEL = 10_000_000
"""Maximum number of weights of the resampling kernel: about the product of both rates, each divided by their greatest common divisor
(44.1 to 16 kHz: 441 * 160 = 70,560). A rate that needs more is refused."""
MAX_SECONDS = 24 * 3600
"""Maximum length of a recording. If the header says that it is longer, the header counts as damaged and the recording is refused."""
UNKNOWN_FRAMES = (1 << 63) - 1
"""The length that libsndfile gives if the header does not contain it."""
SEGMENT_SLACK_SECONDS = 0.1
"""A segment may end this much after the end of its recording, because lists contain rounded times."""
WHOLE_FORMATS = ("MP3",)
"""Formats whose samples after a seek are not those of the whole file (they differ by 1e-7, and mpg123 prints errors)."""


def read_audio(media: Media, index: int, sample_rate: int) -> np.ndarray:
    """Return the waveform of item number `index`: mono, resampled to sample_rate (Hz). If the item is a segment, the rest of its recording
    is not in the result.

    Shapes: float32 (T,).
    Raises: OSError if the file cannot be read; UndecodableError if it cannot be decoded.
    """
    segment = media.segment(index)
    if segment is None:
        return decode_audio(media.read(index), sample_rate)
    with media.open(index) as file:
        return decode_audio(file, sample_rate, segment)


def decode_audio(content: bytes | BinaryIO, sample_rate: int, segment: Segment | None = None) -> np.ndarray:
    """Return the waveform of a recording: the mean of its channels, resampled to sample_rate (Hz). If `segment` is given, return only this
    part of the recording. `content`: the bytes of the file, or the opened file.

    Shapes: float32 (T,).
    Raises: UndecodableError if the content is empty, not audio, truncated, or has NaN or infinite samples, or if the segment is not in it.
    """
    parts = [resample(frames_T, own_rate, sample_rate) for frames_T, own_rate in _open_each(content, sample_rate, segment, _read)]
    waveform_T = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not np.isfinite(waveform_T).all():
        raise UndecodableError("holds NaN or infinite samples")
    return np.ascontiguousarray(waveform_T)


def read_crop(media: Media, index: int, sample_rate: int, crop: Crop) -> np.ndarray:
    """Return a part of the waveform that read_audio returns for item number `index`. Only this part of the file is decoded.

    Shapes: float32 (crop.num_samples,).
    Raises: OSError if the file cannot be read; UndecodableError if this part of it cannot be decoded.
    """
    with media.open(index) as file:
        return decode_crop(file, sample_rate, crop, media.segment(index))


def decode_crop(file: BinaryIO, sample_rate: int, crop: Crop, segment: Segment | None = None) -> np.ndarray:
    """Return a part of the waveform that decode_audio returns, from as few frames as the resampling needs. Formats without an exact seek
    and chained .ogg files are decoded whole.

    Shapes: float32 (crop.num_samples,).
    Raises: UndecodableError as decode_audio, or if the recording ends before the crop does.
    """
    parts = _open_each(file, sample_rate, segment, partial(_read_crop, sample_rate, crop))
    if len(parts) == 1:
        crop_T = parts[0][0]
    else:
        file.seek(0)
        crop_T = decode_audio(file, sample_rate)[crop.start : crop.start + crop.num_samples]
    if len(crop_T) < crop.num_samples:
        raise UndecodableError(f"ends before sample {crop.start + crop.num_samples:,} at {sample_rate} Hz")
    if not np.isfinite(crop_T).all():
        raise UndecodableError("holds NaN or infinite samples")
    return np.ascontiguousarray(crop_T)


def scan_audio(content: bytes | BinaryIO, sample_rate: int, segment: Segment | None = None) -> int:
    """Return the number of samples that a recording, or only its part `segment`, has after resampling to sample_rate (Hz), rounded up.

    The number is computed from the header, so a .flac that is cut off in its middle is not noticed here.
    Raises: UndecodableError if the content is empty, not audio, or visibly truncated, or if the segment is not in it.
    """
    return sum(-(-num_frames * sample_rate // own_rate) for num_frames, own_rate in _open_each(content, sample_rate, segment, _count))


def normalize(waveform_T: np.ndarray) -> np.ndarray:
    """Return the waveform normalised to zero mean and unit variance over the whole recording. Silence stays silence.

    Source: fairseq data/audio/raw_audio_dataset.py (`normalize`: F.layer_norm over all samples, so the biased variance, eps 1e-5).
    """
    centred_T = waveform_T - waveform_T.mean(dtype=np.float64)
    return (centred_T / np.sqrt(np.square(centred_T).mean() + NORM_EPSILON)).astype(np.float32)


class _QuietFile:
    """A file for libsndfile whose seek never raises. A damaged header can ask for an impossible seek, and if the Python callback raises,
    a traceback is printed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._is_lost = file, False
        self.read = file.read

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> None:
        """Seek, or leave the position as it is if the file has no such position."""
        self._is_lost = True
        with suppress(ValueError, OSError):
            self._file.seek(offset, whence)
            self._is_lost = False

    def tell(self) -> int:
        """Return the position in bytes, or 0 in the first call after a failed seek: libsndfile takes 0 for an error of the callback."""
        is_lost, self._is_lost = self._is_lost, False
        return 0 if is_lost else self._file.tell()


def _open_each(content: bytes | BinaryIO, sample_rate: int, segment: Segment | None, use: Callable[..., T]) -> list[tuple[T, int]]:
    """Open each stream of an audio file and call use(sound, index of the first frame, number of frames) for it: the frames of `segment`, or
    all frames. Return (result of the call, sample rate of the stream in Hz) for each stream, in file order.

    Most files have one stream; a chained .ogg has several. libsndfile is called only in this function and those below. `sample_rate`: the
    rate in Hz that the caller resamples to. Raises: UndecodableError.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with decoding():
        streams = streams_of(file)
        if segment and len(streams) > 1:
            raise UndecodableError("a segment of a chained .ogg, whose parts may have other rates; give the whole file")
        return [_open_stream(stream, sample_rate, segment, use) for stream in streams]


def _open_stream(file: BinaryIO, sample_rate: int, segment: Segment | None, use: Callable[..., T]) -> tuple[T, int]:
    try:
        sound = soundfile.SoundFile(_QuietFile(file))
    except soundfile.SoundFileError as error:
        file.seek(0)
        raise UndecodableError(f"not audio ({reason_of(error)})" if file.read(1) else "empty file") from error
    with sound:
        _check(sound, file, sample_rate)
        return use(sound, *_frames(sound, segment)), sound.samplerate


def _count(sound: soundfile.SoundFile, first: int, num_frames: int) -> int:
    return num_frames


def _read(sound: soundfile.SoundFile, first: int, num_frames: int) -> np.ndarray:
    """Return the `num_frames` frames that begin with frame number `first` (from 0), each as the mean of its channels: float32 (T,). Raises:
    UndecodableError if some of them are missing."""
    try:
        if sound.seekable():
            sound.seek(first)
        else:  # GSM 06.10, NMS ADPCM and G.72x cannot seek: read and drop what comes before
            sound.read(first, dtype="float32")
        frames_TC = sound.read(num_frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UndecodableError(f"truncated or damaged ({reason_of(error)})") from error
    if len(frames_TC) < num_frames:
        raise UndecodableError(f"truncated: {len(frames_TC)} of {num_frames} samples are there")
    return frames_TC[:, 0] if frames_TC.shape[1] == 1 else frames_TC.mean(axis=1)


def _read_crop(sample_rate: int, crop: Crop, sound: soundfile.SoundFile, first: int, num_frames: int) -> np.ndarray:
    """Return the crop of the `num_frames` frames from number `first` on, resampled; less of it if the frames end before. Raises:
    UndecodableError."""
    begin, end, start = 0, num_frames, crop.start
    if sound.seekable() and sound.format not in WHOLE_FORMATS:
        begin, end, start = crop.frames(sound.samplerate, sample_rate)
    if begin >= num_frames:
        return np.empty(0, dtype=np.float32)
    waveform_T = resample(_read(sound, first + begin, min(end, num_frames) - begin), sound.samplerate, sample_rate)
    return waveform_T[start : start + crop.num_samples]


def _frames(sound: soundfile.SoundFile, segment: Segment | None) -> tuple[int, int]:
    """Return (index of the first frame, number of frames) of `segment`, or of the whole recording if `segment` is None. Raises:
    UndecodableError if the segment is not within the recording or is shorter than a sample."""
    if segment is None:
        return 0, sound.frames
    rate, seconds = sound.samplerate, sound.frames / sound.samplerate
    end = seconds if segment.seconds is None else segment.start + segment.seconds
    if not 0 <= segment.start < min(end, seconds) or end > seconds + SEGMENT_SLACK_SECONDS:
        raise UndecodableError(f"{segment.start:g} to {end:g} s is not within its {seconds:g} s")
    first = round(segment.start * rate)
    num_frames = min(round(end * rate), sound.frames) - first
    if num_frames < 1:
        raise UndecodableError(f"{segment.start:g} to {end:g} s is less than a sample")
    return first, num_frames


def _check(sound: soundfile.SoundFile, file: BinaryIO, sample_rate: int) -> None:
    """Check the header of an opened recording. Raises: UndecodableError if the recording is truncated or empty, if its length is unknown or
    too large, or if resampling to sample_rate (Hz) needs too large a kernel."""
    _check_whole(sound, file)
    if not sound.frames:
        raise UndecodableError("no samples in it")
    if sound.frames == UNKNOWN_FRAMES:
        raise UndecodableError("its header does not contain its length")
    if sound.frames > MAX_SECONDS * sound.samplerate:
        raise UndecodableError(f"its header says more than {MAX_SECONDS // 3600} hours")
    if sound.samplerate * sample_rate // math.gcd(sound.samplerate, sample_rate) ** 2 > MAX_KERNEL:
        raise UndecodableError(f"its rate of {sound.samplerate} Hz has too small a common divisor with {sample_rate} Hz")


def _check_whole(sound: soundfile.SoundFile, file: BinaryIO) -> None:
    """Check that the file is not truncated. libsndfile shortens a truncated recording to the samples that exist, and only its log says so.
    Raises: UndecodableError if it is truncated."""
    found = re.search(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < UNKNOWN_WAV_LENGTH and not _counts_headers(int(found[1]), file):
        raise UndecodableError(f"truncated: {found[2]} of {found[1]} bytes of samples are there")


def _counts_headers(num_bytes: int, file: BinaryIO) -> bool:
    """True if a .wav is complete although `num_bytes`, the length that its data chunk states, is too large, because some programs include
    the headers. Then `num_bytes` is at most the size of the file, and the RIFF length fits that size."""
    position = file.tell()  # restored below, because libsndfile continues to read from there
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind, outer = file.read(4), int.from_bytes(file.read(4), "little")
    file.seek(position)
    return kind == b"RIFF" and num_bytes <= size and (outer + 8 <= size or outer == size)
