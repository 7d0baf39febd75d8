"""Makes the example that a frozen network reads from one value of a user: a text, a recording or an image. Probes, embeddings and the
encoder in Python all make their examples here, so that they cannot differ. Nothing is masked. Opens no data sets.

Shapes: T samples of a waveform, or tokens of a text.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from model.batch import Batch
from model.frontends.config import VisionFrontendConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.data.audio import decode_audio, normalize
from recipes.data.images import center_view, decode_image, to_rgb, upright
from recipes.data.media import UndecodableError, decoding
from recipes.data.resampling import resample
from recipes.data.speech import SpeechExample, collate_speech
from recipes.data.text import TextExample, collate_text
from recipes.data.tokenizer import BOS, StoredTokenizer, Tokenize, build_tokenize, encode_with, reads_pieces
from recipes.data.vision import VisionExample, collate_vision
from recipes.errors import ConfigError, first_line


class Made(NamedTuple):
    """An example, and whether its end was cut off because it has more tokens than the network takes."""

    example: Any
    is_cut: bool = False


class ExampleMaker(Protocol):
    """Makes the examples of one modality for one network."""

    @property
    def pads(self) -> bool:
        """True if examples of different lengths may share a batch without a change of their features."""

    def make(self, value: Any, sample_rate: int | None = None) -> Made:
        """Return the example of one value. `sample_rate` in Hz: for a waveform.

        Raises: UndecodableError if the value cannot be used; OSError if its file cannot be read; ConfigError if `sample_rate` does not fit
        the value.
        """

    def length(self, example: Any) -> int:
        """Return the length by which examples are batched: tokens or samples; 0 if all examples have the same size."""

    def collate(self, examples: list[Any]) -> Batch:
        """Return the micro-batch of these examples."""


@dataclass(frozen=True)
class TextMaker:
    """Makes examples of texts: `<s>`, then the tokens, then `</s>`, cut to max_tokens. Implements ExampleMaker."""

    max_tokens: int
    tokenizer: StoredTokenizer
    pads = True

    @cached_property
    def _tokenize(self) -> Tokenize:
        return build_tokenize(self.tokenizer.file)

    def make(self, value: Any, sample_rate: int | None = None) -> Made:
        """Return the example of a text. Raises: UndecodableError if the value is no text or has no tokens; ConfigError for a sample
        rate."""
        _check_no_rate(sample_rate, "text")
        if not isinstance(value, str):
            raise UndecodableError(f"{type(value).__name__}, not text")
        made = self.of_text(value)
        if len(made.example.clean) < 2:
            raise UndecodableError("no tokens in it")
        return made

    def of_text(self, text: str) -> Made:
        """Return the example of a text, which may have no tokens: then it is `<s>` alone. Raises: UndecodableError for half a character."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UndecodableError("holds half a character (a lone surrogate)") from None
        is_cut = reads_pieces(self.tokenizer.file.name, self.tokenizer.encoding)
        tokens, _ = encode_with(self._tokenize, [text], is_cut=is_cut)
        ids_T = np.concatenate([[BOS], tokens[: self.max_tokens - 1]]).astype(np.int64)
        return Made(TextExample(ids_T, ids_T, np.zeros(len(ids_T), dtype=bool)), is_cut=len(tokens) > self.max_tokens - 1)

    def length(self, example: TextExample) -> int:
        """Return the number of tokens, with `<s>`."""
        return len(example.clean)

    def collate(self, examples: list[TextExample]) -> Batch:
        """Return the texts padded to the longest. There always is a padding mask, so that the same kernels run for every batch."""
        return collate_text(examples, always_padded=True)


@dataclass(frozen=True)
class SpeechMaker:
    """Makes examples of whole recordings. Only a recording that is shorter than one frame is padded. Implements ExampleMaker."""

    frontend: SpeechFrontendConfig
    sample_rate: int
    pads = False  # padding would change the published positional embedding and the statistics of a norm over time

    def make(self, value: Any, sample_rate: int | None = None) -> Made:
        """Return the example of the path of a recording, or of a waveform (T,), which needs its rate in Hz.

        Raises: UndecodableError if it cannot be decoded, or is no waveform; OSError; ConfigError if the rate is missing, or is given for a
        path.
        """
        if isinstance(value, str | Path):
            _check_no_rate(sample_rate, "the path of a recording")
            return Made(self.of_waveform(decode_audio(Path(value).expanduser().read_bytes(), self.sample_rate)))
        waveform_T = _as_array(value)
        if waveform_T.ndim != 1 or not waveform_T.size or not np.issubdtype(waveform_T.dtype, np.floating):
            raise UndecodableError(f"an array of {waveform_T.dtype} and shape {waveform_T.shape}, not floating-point samples of shape (T,)")
        if not isinstance(sample_rate, int) or sample_rate < 1:
            raise ConfigError(f"sample_rate {sample_rate!r}: a waveform needs its rate, an integer; give sample_rate=16000, or what it has")
        with np.errstate(over="ignore"):
            waveform_T = waveform_T.astype(np.float32)
        if not np.isfinite(waveform_T).all():
            raise UndecodableError("holds NaN or infinite samples, or larger ones than float32 has")
        return Made(self.of_waveform(resample(waveform_T, sample_rate, self.sample_rate)))

    def of_waveform(self, waveform_T: np.ndarray) -> SpeechExample:
        """Return the example of a waveform that has the network's sample rate: normalised, and padded to one frame."""
        waveform_T = normalize(waveform_T)
        waveform_T = np.pad(waveform_T, (0, max(0, self.frontend.receptive_field - len(waveform_T))))
        return SpeechExample(waveform_T, np.zeros(self.frontend.num_frames(len(waveform_T)), dtype=bool))

    def length(self, example: SpeechExample) -> int:
        """Return the number of samples."""
        return len(example.waveform)

    def collate(self, examples: list[SpeechExample]) -> Batch:
        """Return the micro-batch of these recordings."""
        return collate_speech(examples, self.frontend)


@dataclass(frozen=True)
class ImageMaker:
    """Makes examples of images: the central square, resized to the network's size (images.center_view). Implements ExampleMaker."""

    frontend: VisionFrontendConfig
    pads = True

    def make(self, value: Any, sample_rate: int | None = None) -> Made:
        """Return the example of the path of an image, of a PIL image, or of an array of bytes: (height, width) or (height, width, 3).

        Raises: UndecodableError if it cannot be decoded, or is none of these; OSError; ConfigError for a sample rate.
        """
        _check_no_rate(sample_rate, "an image")
        if isinstance(value, str | Path):
            return Made(self.of_image(decode_image(Path(value).expanduser().read_bytes())))
        if isinstance(value, Image.Image):
            with decoding():  # a picture may be opened and not yet decoded
                value.load()
                return Made(self.of_image(to_rgb(upright(value))))
        pixels = _as_array(value)
        if pixels.dtype != np.uint8 or not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
            found = f"an array of {pixels.dtype} and shape {pixels.shape}"
            raise UndecodableError(f"{found}, not a path, a PIL image or uint8 of shape (height, width, 3)")
        return Made(self.of_image(Image.fromarray(pixels).convert("RGB")))

    def of_image(self, image: Image.Image) -> VisionExample:
        """Return the example of an RGB picture."""
        return VisionExample(center_view(image, self.frontend.image_size), np.zeros(self.frontend.grid**2, dtype=bool))

    def length(self, example: VisionExample) -> int:
        """Return 0: all images have one size."""
        return 0

    def collate(self, examples: list[VisionExample]) -> Batch:
        """Return the micro-batch of these images."""
        return collate_vision(examples)


def _as_array(value: Any) -> np.ndarray:
    """Return the value as an array, in the type that it has; a tensor of bfloat16, which numpy has not, as float32. Raises:
    UndecodableError if it is no array, such as a list of lists of different lengths."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UndecodableError(f"{type(value).__name__}, not an array ({first_line(error)})") from None


def _check_no_rate(sample_rate: int | None, kind: str) -> None:
    if sample_rate is not None:
        raise ConfigError(f"sample_rate {sample_rate}: {kind} has none to give; leave it out")
