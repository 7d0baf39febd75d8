"""The speech data set: reads recordings of a prepared folder, crops and masks them, and collates them into a Batch. Contains nothing about
ranks and updates. The samples of a group, a part of the global batch, share the crop length and the number of masked frames.

Shapes: B batch, T samples of the waveform, S frames, K recordings of the split, G recordings of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from model.batch import Batch, Masks
from model.config import SpanMaskConfig
from model.frontends.speech_config import SpeechFrontendConfig
from model.masking import span_mask, unmask_to
from recipes.data.audio import normalize, read_audio, read_crop
from recipes.data.media import BadItem, UndecodableError, first_working
from recipes.data.media_folder import open_prepared
from recipes.data.packing import Split
from recipes.data.resampling import Crop
from recipes.data.speech_folder import check_mask, longest_samples, shortest_samples
from recipes.data_config import SpeechDataConfig
from recipes.errors import ConfigError

GROUPS_PER_BUCKET = 32
"""Size, in groups, of the buckets of recordings of similar length from which groups are drawn. It is large enough that a recording is
grouped with others in each epoch, and small enough that little is cropped away."""
MASK_STREAM, CROP_STREAM = 0, 1


@dataclass(frozen=True)
class SpeechExample:
    """One sample before padding."""

    waveform: np.ndarray
    """float32 (T,), normalised with the mean and variance of the whole recording, or of the crop (data.whole_seconds)."""
    mask: np.ndarray
    """bool (S,), True where the student does not see the frame."""


def collate_speech(examples: list[SpeechExample], frontend: SpeechFrontendConfig) -> Batch:
    """Return the micro-batch of these samples. Shorter waveforms are padded with 0 on the right. In pre-training, the samples of a group
    are equally long."""
    samples = [len(example.waveform) for example in examples]
    frames = [frontend.num_frames(num_samples) for num_samples in samples]
    waveform_BT = np.zeros((len(examples), max(samples)), dtype=np.float32)
    mask_BS = np.zeros((len(examples), max(frames)), dtype=bool)
    padding_BS = np.arange(max(frames)) >= np.array(frames)[:, None]
    for row, example in enumerate(examples):
        waveform_BT[row, : samples[row]] = example.waveform
        mask_BS[row, : frames[row]] = example.mask
    inputs = torch.from_numpy(waveform_BT)
    padding = torch.from_numpy(padding_BS) if padding_BS.any() else None
    return Batch(
        inputs=inputs,
        clean_inputs=inputs,
        masks=Masks.of(torch.from_numpy(mask_BS)),
        padding_mask_BS=padding,
        clean_padding_mask_BS=padding,
        num_tokens=sum(frames),
    )


class SpeechDataset:
    """The recordings of one split, sorted by length, addressed by index. example() depends only on its arguments, the seed and the data."""

    def __init__(
        self,
        folder: Path,
        split: Split,
        *,
        frontend: SpeechFrontendConfig,
        mask: SpanMaskConfig,
        data: SpeechDataConfig,
        seed: int,
    ) -> None:
        """`seed`: for crops and masks. Use a constant for the held-out split, so that runs with different seeds are evaluated alike.

        Raises: ConfigError if the folder is damaged or not a prepared folder, if a recording is shorter than data.min_seconds or one frame,
        or if masks could cover the shortest recording.
        """
        check_mask(data, frontend, mask)
        self._prepared = open_prepared(folder)
        self.fingerprint = self._prepared.fingerprint
        self._items_K = self._prepared.splits[split]
        self._lengths_K = self._prepared.lengths_N[self._items_K]
        self._frontend, self._mask, self._data = frontend, mask, data
        self._max_samples = longest_samples(data)
        self._entropy = (seed, ("train", "valid").index(split))
        self._bad: list[BadItem] = []
        self._min_samples = needed = shortest_samples(data, frontend)
        if len(self) and self._lengths_K[0] < needed:
            found = f"{folder}: has a recording of {self._lengths_K[0]} samples"
            raise ConfigError(f"{found}, data.min_seconds and the front-end need {needed}; prepare it again")

    def __len__(self) -> int:
        return len(self._items_K)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of one epoch. Recordings of similar length are next to each other in groups of group_size; the groups are
        in random order. If the number of recordings is no multiple of group_size, the remainder is left out, chosen at random."""
        size = self._data.group_size
        left_out = rng.choice(len(self), len(self) % size, replace=False)
        kept = np.delete(np.arange(len(self)), left_out)
        bucket = np.arange(len(kept)) // (size * GROUPS_PER_BUCKET)
        groups = kept[np.lexsort((rng.random(len(kept)), bucket))].reshape(-1, size)
        return rng.permutation(groups).ravel()

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> SpeechExample:
        """Return recording `index`, cropped to the length of its group's shortest recording, but at most data.max_seconds, and rounded down
        to one of data.num_lengths lengths. The number of masked frames is the smallest in the group.

        A recording that cannot be decoded is replaced by the next longer one that can. If there is none, a shorter one that has the crop
        length is used; at last a still shorter one, which is repeated. Crop length and mask stay the same.

        Raises: ConfigError if no recording can be decoded.
        """
        assert index in group
        num_samples = self._rounded(int(min(self._max_samples, *(self._lengths_K[member] for member in group))))
        masks_GS = {member: self._draw_mask(epoch, member, num_samples) for member in group}
        num_masked = min(int(mask_S.sum()) for mask_S, _ in masks_GS.values())
        mask_S, mask_rng = masks_GS[index]
        crop_T = self._read(epoch, index, num_samples)
        return SpeechExample(crop_T, unmask_to(mask_S, num_masked, mask_rng))

    def collate(self, examples: list[SpeechExample]) -> Batch:
        """Return the micro-batch of these samples. Shorter waveforms are padded with 0 on the right."""
        return collate_speech(examples, self._frontend)

    def take_bad(self) -> list[BadItem]:
        """Return the recordings that example() could not decode in this process since the last call, and clear the list."""
        bad, self._bad = self._bad, []
        return bad

    def _rounded(self, num_samples: int) -> int:
        """Return the largest of data.num_lengths evenly spaced lengths that is not above num_samples; num_samples if it is 0."""
        gaps, span = self._data.num_lengths - 1, self._max_samples - self._min_samples
        if gaps < 0 or span <= 0:
            return num_samples
        number = (num_samples - self._min_samples) * gaps // span
        return self._min_samples + (number * span // gaps if gaps else 0)

    def _draw_mask(self, epoch: int, member: int, num_samples: int) -> tuple[np.ndarray, np.random.Generator]:
        """Return the mask of recording `member` at a length of num_samples, and the generator with which example() reduces this mask to the
        smallest number of masked frames in the group. Shapes: bool (S,)."""
        rng = self._rng(epoch, member, MASK_STREAM)
        return span_mask(self._frontend.num_frames(num_samples), self._mask, rng), rng

    def _read(self, epoch: int, index: int, num_samples: int) -> np.ndarray:
        """Return a random crop of recording `index`, normalised. If it cannot be decoded, return one of the first candidate that can.
        Raises: ConfigError if none can be decoded."""
        crop_T, _, bad = first_working(
            self._prepared.media,
            self._candidates(index, num_samples),
            lambda item: self._decode_crop(item, num_samples, self._rng(epoch, index, CROP_STREAM)),
        )
        self._bad += bad
        return crop_T

    def _decode_crop(self, item: int, num_samples: int, rng: np.random.Generator) -> np.ndarray:
        """Return a random crop of an item, normalised: with the whole recording, or by itself if the recording is longer than
        data.whole_seconds. A recording with fewer than num_samples samples is repeated up to this length. Raises: OSError,
        UndecodableError."""
        expected, limit = int(self._prepared.lengths_N[item]), self._data.whole_seconds * self._data.sample_rate
        if limit and expected > max(limit, num_samples):
            crop = Crop(int(rng.integers(expected - num_samples + 1)), num_samples)
            return normalize(read_crop(self._prepared.media, item, self._data.sample_rate, crop))
        waveform_T = normalize(self._decode(item))
        if len(waveform_T) < num_samples:
            waveform_T = np.resize(waveform_T, num_samples)  # repeats the recording
        start = int(rng.integers(len(waveform_T) - num_samples + 1))
        return waveform_T[start : start + num_samples].copy()

    def _candidates(self, index: int, num_samples: int) -> Iterator[int]:
        """Yield the items that are tried in turn when recording `index` is read: first the recording itself, then longer ones, then
        shorter ones of at least num_samples samples, last those with fewer samples."""
        first = int(np.searchsorted(self._lengths_K, num_samples))
        positions = chain(range(index, len(self)), range(first, index), range(first - 1, -1, -1))
        return (int(self._items_K[position]) for position in positions)

    def _decode(self, item: int) -> np.ndarray:
        waveform_T = read_audio(self._prepared.media, item, self._data.sample_rate)
        expected = int(self._prepared.lengths_N[item])
        if len(waveform_T) < expected:
            raise UndecodableError(f"{len(waveform_T)} samples, {expected} when it was prepared")
        return waveform_T

    def _rng(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        seed = np.random.SeedSequence((*self._entropy, epoch, index), spawn_key=(stream,))
        return np.random.Generator(np.random.Philox(seed))
