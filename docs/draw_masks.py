"""Draws what the student sees: a recording, a photograph and a sentence of the shipped samples under the published masks.

python docs/draw_masks.py    # writes docs/masks.png
"""

import itertools
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from model.masking import block_mask, span_mask, token_mask
from recipes.data.audio import AUDIO, decode_audio, normalize
from recipes.data.images import IMAGES, center_view, decode_image
from recipes.data.media import open_media
from recipes.data.source import SAMPLE
from recipes.data.text_files import read_paragraphs
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base

HERE = Path(__file__).parent
SECONDS, CLIP, PHOTOGRAPH, PARAGRAPH = 4.0, 12, 300, 40
HIDDEN = "#c0392b"


def draw_speech(axes: Axes, rng: np.random.Generator) -> None:
    """A log spectrogram with the masked spans of frames."""
    recipe = speech_base()
    rate = recipe.data.sample_rate
    waveform_T = normalize(decode_audio(open_media(None, AUDIO, column="audio").read(CLIP), rate))[: int(SECONDS * rate)]
    mask_S = span_mask(recipe.frontend.num_frames(len(waveform_T)), recipe.mask, rng)
    axes.specgram(waveform_T, NFFT=512, Fs=rate, noverlap=352, cmap="magma", vmin=-110, vmax=-30)
    stride = recipe.frontend.stride / rate
    for frame in np.flatnonzero(mask_S):
        axes.axvspan(frame * stride, (frame + 1) * stride, color="white", alpha=0.85, linewidth=0)
    axes.set_ylim(0, 6000)
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    axes.set_title(f"speech: spans of {recipe.mask.length} frames of 20 ms, {mask_S.mean():.0%} hidden", loc="left")


def draw_vision(clean: Axes, masked: Axes, rng: np.random.Generator) -> None:
    """A photograph, and the patches that the student sees of it."""
    recipe = vision_base()
    grid, size = recipe.frontend.grid, recipe.frontend.image_size
    media = open_media(None, IMAGES, column="image")
    view_CHW = center_view(decode_image(media.read(PHOTOGRAPH)), size)
    image_HWC = view_CHW.transpose(1, 2, 0) / 255
    mask_N = block_mask(grid, recipe.mask, rng)
    hidden_HW = np.kron(mask_N.reshape(grid, grid), np.ones((size // grid, size // grid), dtype=bool))
    clean.imshow(image_HWC)
    masked.imshow(np.where(hidden_HW[..., None], 1.0, image_HWC))
    for axes in (clean, masked):
        axes.set_axis_off()
    clean.set_title("vision: what the teacher sees", loc="left")
    masked.set_title(f"what the student sees: {mask_N.sum()} of {grid**2} patches hidden", loc="left")


def draw_text(axes: Axes, rng: np.random.Generator) -> None:
    """Words, for the sake of reading, in place of the tokenizer's pieces."""
    recipe = text_base()
    book = min(SAMPLE.glob("*.txt*"))
    paragraphs = (text for text in read_paragraphs(book) if len(text.split()) > 50)
    words = next(itertools.islice(paragraphs, PARAGRAPH, None)).split()[:64]
    _, mask_T = token_mask(np.arange(4, 4 + len(words)), recipe.mask, rng, vocab_size=recipe.frontend.vocab_size)
    x, y = 0.0, 0.88
    for word, hidden in zip(words, mask_T, strict=True):
        width = 0.0102 * (len(word) + 1)
        if x + width > 1:
            x, y = 0.0, y - 0.2
        shown, color = ("\u2588" * len(word), HIDDEN) if hidden else (word, "black")
        axes.text(x, y, shown, color=color, fontsize=11, family="monospace", alpha=0.55 if hidden else 1.0)
        x += width
    axes.set_axis_off()
    axes.set_title(f"text: spans of {recipe.mask.length} tokens, {mask_T.mean():.0%} hidden", loc="left")


def main() -> int:
    """Write the picture beside this script."""
    rng = np.random.default_rng(4)
    figure, grid = plt.subplot_mosaic("ss;cm;tt", figsize=(10, 9), height_ratios=[1.0, 1.9, 0.6], layout="constrained")
    draw_speech(grid["s"], rng)
    draw_vision(grid["c"], grid["m"], rng)
    draw_text(grid["t"], rng)
    figure.savefig(HERE / "masks.png", dpi=70)
    return 0


if __name__ == "__main__":
    sys.exit(main())
