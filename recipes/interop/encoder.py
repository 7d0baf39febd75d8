"""A trained network as a Python object that turns texts, recordings or images into features, in any Python process: no launcher, no flags,
no process groups of the user's. Nothing is trained here."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.parallel import having_a_world, parallel_alone
from model.trunk import Trunk
from recipes.data.examples import ExampleMaker
from recipes.data.media import UndecodableError
from recipes.errors import ConfigError, first_line
from recipes.interop.consolidate import KIND_OF
from recipes.interop.features import Features, batches_of, joined
from recipes.interop.layers import BATCH, Layer, Pool, check_choice
from recipes.interop.model_source import ModelSource, find_source
from recipes.modalities.registry import modality_of


@dataclass(frozen=True)
class TrainedEncoder:
    """A frozen network. Call it with a list of values to get the features of all layers. Threads may share it: their calls run one after
    another."""

    trunk: Trunk
    maker: ExampleMaker
    cls_name: str | None
    device: torch.device

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.trunk.encoder.layers)

    def __call__(self, inputs: Sequence[Any], *, sample_rate: int | None = None, batch_size: int = BATCH) -> Features:
        """Return the features of all layers, for one item or more. Text: strings, of which the end may be cut off. Speech: paths, or
        waveforms (T,) of floats with their `sample_rate` in Hz. Images: paths, PIL images, or uint8 arrays (height, width, 3).

        Recordings of different lengths are computed one by one, since padding would change their features.
        Raises: ConfigError if an item cannot be read. Its message has the number of the item, from 0.
        """
        examples = self._examples(inputs, sample_rate)
        batches = self._batches(examples, batch_size)
        with having_a_world():  # once for all batches: it takes ten milliseconds
            return joined([(numbers, self.features([examples[n] for n in numbers])) for numbers in batches])

    def embed(
        self,
        inputs: Sequence[Any],
        *,
        layer: Layer = "last",
        pool: Pool = "mean",
        sample_rate: int | None = None,
        batch_size: int = BATCH,
    ) -> Tensor | list[Tensor]:
        """Return one vector for each item, (items, channels); with pool "none" a list with a tensor (positions, channels) for each item.
        `layer` and `pool`: as for Features.pooled. The other arguments: as for a call.

        Raises: ConfigError if an item cannot be read, or if there is no such layer or token.
        """
        check_choice(layer, pool, self.num_layers, self.cls_name)
        examples = self._examples(inputs, sample_rate)
        batches, vectors = self._batches(examples, batch_size), dict[int, Tensor]()
        with having_a_world():
            for numbers in batches:
                vectors |= zip(numbers, self.features([examples[n] for n in numbers]).pooled(layer, pool), strict=True)
        in_order = [vectors[number] for number in range(len(examples))]
        return in_order if pool == "none" else torch.stack(in_order)

    @torch.no_grad()
    def features(self, examples: Sequence[Any]) -> Features:
        """Return the features of one batch of examples that `maker` made."""
        batch = self.maker.collate(list(examples)).to(self.device)
        with having_a_world():
            hidden_BSD = [x.float() for x in self.trunk.hidden_states(batch.inputs, batch.padding_mask_BS)]
        prefix = self.trunk.frontend.num_prefix_tokens
        padding_BN = batch.padding_mask_BS
        if padding_BN is None:
            size = (len(examples), hidden_BSD[0].shape[1] - prefix)
            padding_BN = torch.zeros(size, dtype=torch.bool, device=self.device)
        return Features(hidden_BSD, padding_BN, prefix, self.cls_name)

    def _batches(self, examples: list[Any], batch_size: int) -> Iterator[list[int]]:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: must be 1 or more")
        return batches_of(examples, self.maker, batch_size)

    def _examples(self, inputs: Sequence[Any], sample_rate: int | None) -> list[Any]:
        if not isinstance(inputs, list | tuple) or not inputs:
            shown = repr(inputs) if isinstance(inputs, str | Path | list | tuple) else f"of the class {type(inputs).__name__}"
            raise ConfigError(f"inputs are {shown}: give a list of one item or more")
        examples = []
        for number, value in enumerate(inputs):
            try:
                examples.append(self.maker.make(value, sample_rate).example)
            except (UndecodableError, OSError, ValueError) as error:  # ValueError: a path with a NUL, a closed picture
                shown = f" ({value})" if isinstance(value, str | Path) else ""
                reason = getattr(error, "strerror", None) or error
                raise ConfigError(f"item {number}{shown[:200]}: {reason}; fix it or leave it out") from None
        return examples


def build_encoder(source: ModelSource, device: torch.device) -> TrainedEncoder:
    """Return the encoder of a network, with its weights on `device`. Raises: ConfigError if weights or tokenizer cannot be read."""
    modality = modality_of(source.recipe.modality, source.name)
    maker = modality.build_maker(source.recipe, source.tokenizer)
    with having_a_world():
        trunk = source.load(device, parallel_alone()).requires_grad_(False)
    return TrainedEncoder(trunk, maker, modality.cls_name, device)


def open_encoder(name: str, weights: str, device: str | torch.device | None) -> TrainedEncoder:
    """Return the encoder of the network `name`, as recipes.interop.load_encoder describes it. Raises: ConfigError."""
    if weights not in KIND_OF:
        raise ConfigError(f"weights {weights!r}: must be one of {', '.join(KIND_OF)}")
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = find_source(name, weights, flag="")
    for note in source.notes:
        warnings.warn(f"{source.name}: {note}", stacklevel=3)  # at the line that calls load_encoder
    return build_encoder(source, chosen)


def _device(name: str | torch.device) -> torch.device:
    """Return the device. Raises: ConfigError if torch cannot compute on it."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the second: torch was built without CUDA
        raise ConfigError(f'device {name}: {first_line(error)}; give device="cpu", or one that torch has') from None
