"""Encoded audio -> a mono float waveform at one rate, and its length from the header alone. Knows no files, data sets or crops.

Shapes: T samples.
"""

import io
import math
import re
import sysconfig
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from recipes.data.media import MediaKind, UndecodableError
from recipes.errors import ConfigError

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
)
NORM_EPSILON = 1e-5
UNKNOWN_WAV_LENGTH = 0x7FFF0000
"""Programs that write a .wav into a pipe put a number from here up in place of its length."""
MAX_KERNEL = 10_000_000
"""Weights of the resampling kernel, about the product of the rates divided by their common factor (44.1 to 16 kHz: 70,560)."""
MAX_SECONDS = 24 * 3600
"""A header that tells more is damaged, or does not know (libsndfile then tells 2^63)."""
OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""Header, segment table and segments of the longest page."""
OGG_END_OF_STREAM = 4


def decode_audio(content: bytes, sample_rate: int) -> np.ndarray:
    """The whole recording as float32 (T,): the mean of its channels, resampled to sample_rate (Hz).

    Raises: UndecodableError for what is empty, not audio, truncated, or not finite.
    """
    with _open(io.BytesIO(content), sample_rate) as sound:
        num_frames, own_rate = sound.frames, sound.samplerate
        try:
            frames_TC = sound.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise UndecodableError(f"truncated or damaged ({_reason(error)})") from error
    if len(frames_TC) < num_frames:
        raise UndecodableError(f"truncated: {len(frames_TC)} of {num_frames} samples are there")
    waveform_T = frames_TC[:, 0] if frames_TC.shape[1] == 1 else frames_TC.mean(axis=1)
    if not np.isfinite(waveform_T).all():
        raise UndecodableError("holds NaN or infinite samples")
    return np.ascontiguousarray(waveform_T) if own_rate == sample_rate else _resample(waveform_T, own_rate, sample_rate)


def scan_audio(content: bytes | BinaryIO, sample_rate: int) -> int:
    """Samples that decode_audio gives at sample_rate (Hz), from the header. A .flac that is cut off in its middle passes here.

    Raises: UndecodableError for what is empty, not audio, or visibly truncated.
    """
    with _open(io.BytesIO(content) if isinstance(content, bytes) else content, sample_rate) as sound:
        return -(-sound.frames * sample_rate // sound.samplerate)


def normalize(waveform_T: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the whole recording; silence stays silence.

    Source: fairseq data/audio/raw_audio_dataset.py (`normalize`: F.layer_norm over all samples, so the biased variance, eps 1e-5).
    """
    centred_T = waveform_T - waveform_T.mean(dtype=np.float64)
    return (centred_T / np.sqrt(np.square(centred_T).mean() + NORM_EPSILON)).astype(np.float32)


def _open(file: BinaryIO, sample_rate: int) -> soundfile.SoundFile:
    """Ready to be read from its start. Raises: UndecodableError."""
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.SoundFileError as error:
        file.seek(0)
        raise UndecodableError(f"not audio ({_reason(error)})" if file.read(1) else "empty file") from error
    _check_whole_wav(sound)
    if sound.format == "OGG":
        _check_whole_ogg(file)
    if not sound.frames:
        raise UndecodableError("no samples in it")
    if sound.frames > MAX_SECONDS * sound.samplerate:
        raise UndecodableError(f"its header tells more than {MAX_SECONDS // 3600} hours")
    if sound.samplerate * sample_rate // math.gcd(sound.samplerate, sample_rate) ** 2 > MAX_KERNEL:
        raise UndecodableError(f"its rate of {sound.samplerate} Hz is too odd a part of {sample_rate} Hz")
    return sound


def _check_whole_wav(sound: soundfile.SoundFile) -> None:
    """libsndfile shortens the recording to what is there, and says so in its log only."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if found and int(found[2]) < int(found[1]) < UNKNOWN_WAV_LENGTH:
        raise UndecodableError(f"truncated: {found[2]} of {found[1]} bytes of samples are there")


def _check_whole_ogg(file: BinaryIO) -> None:
    """An .ogg does not tell its length; its last page says that it is the last."""
    position = file.tell()  # libsndfile's, which reads on from there
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - OGG_PAGE_BYTES))
    tail = file.read()
    file.seek(position)
    page = tail[tail.rfind(b"OggS") :]
    num_segments = page[26] if len(page) > 26 else 0
    length = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) < length or not page[5] & OGG_END_OF_STREAM:
        raise UndecodableError("truncated: its last page is missing")


def _reason(error: soundfile.SoundFileError) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _resample(waveform_T: np.ndarray, own_rate: int, sample_rate: int) -> np.ndarray:
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
