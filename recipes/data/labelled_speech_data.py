"""The data set of labelled recordings: decodes them, draws the masks of training, and collates them into a Batch with targets. Unlike
speech.py it reads whole recordings and pads them.

Shapes: K recordings of the split, T samples of a recording, S frames, D channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from model.batch import Batch
from model.config import SpanMaskConfig
from model.frontends.speech_config import SpeechFrontendConfig
from model.masking import span_mask
from recipes.data.audio import normalize, read_audio
from recipes.data.batch_targets import collate_targets, uncounted
from recipes.data.labelled_folder import TRAIN, load_arrays_of, load_info
from recipes.data.labelled_speech_reader import digest_of, open_recordings
from recipes.data.length_buckets import bucketed_order
from recipes.data.media import BadItem, UndecodableError, bad_item, first_working
from recipes.data.speech import SpeechExample, collate_speech
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledSpeechDataConfig

TIME_STREAM, CHANNEL_STREAM, CROP_STREAM = 0, 1, 2


@dataclass(frozen=True)
class LabelledSpeechExample:
    """One sample before padding."""

    index: int
    """Number of the recording, and so of the label, in the split."""
    speech: SpeechExample
    channel_mask: np.ndarray | None
    """bool (D,), True at channels that are 0 in all frames; None if no channels are masked."""
    is_read: bool = True
    """False: the recording cannot be decoded. The sample is silence and is not counted."""


class LabelledSpeechDataset:
    """The recordings of one split, addressed by index. example() depends only on its arguments, the seed and the data. Only the training
    split has masks and random crops."""

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        frontend: SpeechFrontendConfig,
        data: LabelledSpeechDataConfig,
        hidden_size: int,
        batch_size: int,
        seed: int,
    ) -> None:
        """`hidden_size`: channels of the front-end's output, for their mask. `batch_size`: samples of a global batch, which have similar
        lengths. Raises: ConfigError if the folder is damaged, or if the recordings are not those with which it was prepared."""
        info, arrays = load_info(folder), load_arrays_of(folder, split)
        self.fingerprint = info.fingerprint
        self._targets = {name: arrays[name] for name in ("target", "letters", "letter_ends") if name in arrays}
        self._items_K, self._lengths_K = arrays["item"], arrays["length"]
        self._media = open_recordings(info.source, str(arrays["split"]), info.settings["data.column"])
        if not np.array_equal(digest_of(self._media), arrays["digest"]):
            raise ConfigError(f"{info.source}: other recordings than when {folder} was prepared; remove that folder and prepare it again")
        self._frontend, self._data, self._hidden_size = frontend, data, hidden_size
        self._batch_size, self._seed, self._is_training = batch_size, seed, split == TRAIN
        self._bad: list[BadItem] = []

    def __len__(self) -> int:
        return len(self._items_K)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of one epoch, in batches of similar length."""
        return bucketed_order(self._lengths_K, self._batch_size, rng)

    def take_bad(self) -> list[BadItem]:
        """Return the recordings that example() could not decode in this process since the last call, and clear the list."""
        bad, self._bad = self._bad, []
        return bad

    def example(self, epoch: int, index: int, group: tuple[int, ...] = ()) -> LabelledSpeechExample:
        """Return recording `index`. `group` is ignored.

        In training, a recording that cannot be decoded is replaced by the next one that can, with its label. In an evaluation each label
        is counted once, so there it becomes a sample that is not counted.
        Raises: ConfigError if no recording can be decoded.
        """
        found, waveform_T = self._read_any(index) if self._is_training else (index, self._read_or_silence(index))
        is_read = waveform_T is not None
        waveform_T = np.zeros(0, dtype=np.float32) if waveform_T is None else self._cropped(waveform_T, epoch, found)
        waveform_T = np.pad(waveform_T, (0, max(0, self._frontend.receptive_field - len(waveform_T))))
        mask_S = self._mask(self._frontend.num_frames(len(waveform_T)), self._time_mask, epoch, index, TIME_STREAM)
        channels_D = self._mask(self._hidden_size, self._channel_mask, epoch, index, CHANNEL_STREAM)
        has_channels = self._is_training and self._channel_mask.prob > 0
        return LabelledSpeechExample(found, SpeechExample(waveform_T, mask_S), channels_D if has_channels else None, is_read)

    def collate(self, examples: list[LabelledSpeechExample]) -> Batch:
        """Return the micro-batch of these samples, padded on the right to the longest. It always has a padding mask, so that the same
        kernels run however the global batch is divided."""
        batch = collate_speech([one.speech for one in examples], self._frontend)
        padding_BS = torch.zeros_like(batch.masks.mask_BS) if batch.padding_mask_BS is None else batch.padding_mask_BS
        channels = [one.channel_mask for one in examples if one.channel_mask is not None]
        masks = replace(batch.masks, channel_mask_BD=torch.from_numpy(np.stack(channels)) if channels else None)
        batch = replace(batch, masks=masks, padding_mask_BS=padding_BS, clean_padding_mask_BS=padding_BS)
        batch = collate_targets(batch, self._targets, [one.index for one in examples])
        return batch if all(one.is_read for one in examples) else uncounted(batch, [not one.is_read for one in examples])

    @property
    def _time_mask(self) -> SpanMaskConfig:
        return SpanMaskConfig(self._data.time_mask_prob, self._data.time_mask_length, min_masks=1)

    @property
    def _channel_mask(self) -> SpanMaskConfig:
        return SpanMaskConfig(self._data.channel_mask_prob, self._data.channel_mask_length, min_masks=0)

    def _mask(self, size: int, mask: SpanMaskConfig, epoch: int, index: int, stream: int) -> np.ndarray:
        """Return the mask of a recording's frames or channels: bool (size,), False everywhere outside of training.

        Source: fairseq data2vec_audio.py apply_mask (at least one span of frames, maybe none of channels). fairseq also reduces the masked
        frames of a batch to the smallest number in it, which would depend on how the global batch is divided.
        """
        if not (self._is_training and mask.prob):
            return np.zeros(size, dtype=bool)
        return span_mask(size, mask, self._rng(epoch, index, stream))

    def _read_any(self, index: int) -> tuple[int, np.ndarray]:
        """Return the first recording from `index` on that can be decoded: its index and waveform. Raises: ConfigError if there is none."""
        waveform_T, item, bad = first_working(self._media, self._candidates(index), self._decode)
        self._bad += bad
        return self._index_of(item), normalize(waveform_T)

    def _candidates(self, index: int) -> Iterator[int]:
        return (int(self._items_K[number]) for number in chain(range(index, len(self)), range(index)))

    def _read_or_silence(self, index: int) -> np.ndarray | None:
        item = int(self._items_K[index])
        try:
            return normalize(self._decode(item))
        except (OSError, UndecodableError) as error:
            self._bad.append(bad_item(self._media, item, error, self._media.file(item)))
            return None

    def _decode(self, item: int) -> np.ndarray:
        waveform_T = read_audio(self._media, item, self._data.sample_rate)
        expected = int(self._lengths_K[self._index_of(item)])
        if len(waveform_T) < expected:
            raise UndecodableError(f"{len(waveform_T)} samples, {expected} when it was prepared")
        return waveform_T

    def _index_of(self, item: int) -> int:
        return int(np.searchsorted(self._items_K, item))  # the recordings are in the order of the data

    def _cropped(self, waveform_T: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """Return the samples that are read of a recording that is longer than data.max_seconds: a random part in training, else the
        middle."""
        size = int(self._lengths_K[index])
        last = len(waveform_T) - size
        start = int(self._rng(epoch, index, CROP_STREAM).integers(last + 1)) if self._is_training else last // 2
        return waveform_T[start : start + size]

    def _rng(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, epoch, index), spawn_key=(stream,))))
