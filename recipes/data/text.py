"""The text data set: reads samples of a prepared folder, masks them, and collates them into a Batch. Contains nothing about ranks and
updates.

Shapes: B batch, S sequence, T real tokens of one sample (T <= S).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.batch import Batch, Masks
from model.config import TokenMaskConfig
from model.masking import token_mask
from recipes.data.file_array import FileArray
from recipes.data.media import BadItem
from recipes.data.order import Position
from recipes.data.packing import Split
from recipes.data.shards import load_prepared
from recipes.data.tokenizer import BOS, PAD


@dataclass(frozen=True)
class TextExample:
    """One sample before padding: three arrays of shape (T,). A `<pad>` inside the sample counts as a padded position."""

    clean: np.ndarray
    """int64 ids, the input of the teacher."""
    inputs: np.ndarray
    """The ids with masks, the input of the student."""
    mask: np.ndarray
    """bool, True at positions where the loss is taken."""


class TextDataset:
    """The samples of one split, addressed by index. The result of example() depends only on (seed, epoch, index)."""

    def __init__(self, folder: Path, split: Split, *, mask: TokenMaskConfig, seed: int) -> None:
        """`seed`: for the masks. Use a constant for the held-out split, so that runs with different seeds have the same masks.

        Raises: ConfigError if the folder is damaged or not a prepared folder.
        """
        prepared = load_prepared(folder)
        self.fingerprint = prepared.fingerprint
        self.vocab_size = prepared.vocab_size
        self.sequence_length: int = prepared.data["sequence_length"]
        self._is_padded = prepared.data["break_mode"] != "none"
        self._tokens = FileArray(folder / "tokens.bin", prepared.dtype)
        self._samples_N2 = np.load(folder / f"{split}.npy", mmap_mode="r" if prepared.counts[f"{split}_samples"] else None)
        self._starts_and_lengths = FileArray(folder / f"{split}.npy", np.int64, getattr(self._samples_N2, "offset", 0))
        self._mask = mask
        self.entropy = (seed, ("train", "valid").index(split))
        """Numbers with which every random draw of this split begins, before the epoch."""

    def __len__(self) -> int:
        return len(self._samples_N2)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, `<s>` included. Shapes: (number of samples,)."""
        return self._samples_N2[:, 1] + 1

    def order(self, rng: np.random.Generator) -> None:
        """Return None: all indices, shuffled."""

    def take_bad(self) -> list[BadItem]:
        """Return []: text that cannot be read stops the preparation."""
        return []

    def example(self, epoch: int, index: int, group: tuple[int, ...] = ()) -> TextExample:
        """Return sample `index` with `<s>` before it and the mask of this epoch. `group` is ignored."""
        start, length = self._place(index)
        clean_T = np.empty(length + 1, dtype=np.int64)
        clean_T[0] = BOS
        clean_T[1:] = self._tokens[start : start + length]
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((*self.entropy, epoch, index))))
        input_T, mask_T = token_mask(clean_T, self._mask, rng, vocab_size=self.vocab_size)
        return TextExample(clean_T, input_T, mask_T)

    def read_ahead(self, positions: list[Position]) -> None:
        """Let the system read the tokens of these samples in the background, all at once."""
        for position in positions:
            self._starts_and_lengths.will_read(2 * position.index, 2 * position.index + 2)
        for position in positions:
            start, length = self._place(position.index)
            self._tokens.will_read(start, start + length)

    def _place(self, index: int) -> tuple[int, int]:
        start, length = self._starts_and_lengths[2 * index : 2 * index + 2].tolist()
        return start, length

    def collate(self, examples: list[TextExample]) -> Batch:
        """Return the micro-batch of these samples, padded on the right to sequence_length.

        With break_mode complete_doc every batch has a padding mask, even if no sample of it is padded; with break_mode none, no batch has
        one. So the same kernels run however the global batch is divided.
        """
        return collate_text(examples, self.sequence_length, always_padded=self._is_padded)


def collate_text(examples: list[TextExample], length: int | None = None, *, always_padded: bool = False) -> Batch:
    """Return the micro-batch of these samples, padded on the right to `length` tokens (None: to the longest sample). It has a padding mask
    if a sample is padded or if `always_padded`."""
    length = max(len(example.clean) for example in examples) if length is None else length
    clean_BS = np.full((len(examples), length), PAD, dtype=np.int64)
    input_BS = clean_BS.copy()
    mask_BS = np.zeros(clean_BS.shape, dtype=bool)
    for row, example in enumerate(examples):
        num_tokens = len(example.clean)
        clean_BS[row, :num_tokens] = example.clean
        input_BS[row, :num_tokens] = example.inputs
        mask_BS[row, :num_tokens] = example.mask
    padding_BS = clean_BS == PAD
    input_BS[padding_BS] = PAD
    mask_BS[padding_BS] = False
    padding = torch.from_numpy(padding_BS) if always_padded or padding_BS.any() else None
    return Batch(
        inputs=torch.from_numpy(input_BS),
        clean_inputs=torch.from_numpy(clean_BS),
        masks=Masks.of(torch.from_numpy(mask_BS)),
        padding_mask_BS=padding,
        clean_padding_mask_BS=padding,
        num_tokens=int(padding_BS.size - padding_BS.sum()),
    )
