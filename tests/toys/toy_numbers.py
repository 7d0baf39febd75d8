"""A fourth modality in one file, for tests of the registry: rows of numbers in, patches of a few numbers out. Its one line in the table
is the last line here; a real modality has it in recipes/modalities/registry.py.

Shapes: B batch, T numbers of a sample, P numbers of a patch, S = T / P patches, D hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import Batch, Masks
from model.bounds import at_least
from model.config import EncoderConfig, MaskConfig, Shares
from model.dropout import DropoutStream
from model.flops import FrontendFlops
from model.frontends.config import FrontendConfig
from model.frontends.output import Frontend, FrontendOutput
from model.init import Init, UniformLinear
from model.parallel import Parallel
from model.shapes import ParameterShape, vectors
from recipes.config import Recipe
from recipes.data_config import DataConfig
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.settings import Kinds
from recipes.text import text_tiny


@dataclass(frozen=True)
class NumbersFrontendConfig(FrontendConfig):
    """Patches of a row."""

    kind: ClassVar[str] = "numbers"
    row_length: Annotated[int, at_least(1)] = 64
    patch_length: Annotated[int, at_least(1)] = 4

    def tokens_per_sample(self, length: float = 0) -> int:
        """Return the number of patches. All rows have the same length."""
        return self.row_length // self.patch_length

    def parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Mask vector, positions, projection."""
        D = encoder.hidden_size
        positions = ParameterShape("positions", (self.tokens_per_sample(), D))
        projection = ParameterShape("projection.weight", (D, self.patch_length))
        return [*vectors(D, "mask_vector"), positions, projection, *vectors(D, "projection.bias")]

    def forward_flops(self, encoder: EncoderConfig, num_tokens: float) -> FrontendFlops:
        """The projection."""
        return FrontendFlops(raw=2 * num_tokens * self.patch_length * encoder.hidden_size)


@dataclass(frozen=True)
class RandomMaskConfig(MaskConfig):
    """The same number of random patches in every sample."""

    kind: ClassVar[str] = "random"
    num_patches: Annotated[int, at_least(1)] = 6


@dataclass(frozen=True)
class NumbersDataConfig(DataConfig):
    """A folder with numbers.npy, float (rows, T)."""

    kind: ClassVar[str] = "numbers"
    path: str | None = None  # type: ignore[assignment]
    num_workers: int = 0  # type: ignore[assignment]


def numbers_tiny() -> Recipe:
    """text_tiny's settings on rows of numbers."""
    return replace(
        text_tiny(),
        name="numbers_tiny",
        modality="numbers",
        frontend=NumbersFrontendConfig(),
        mask=RandomMaskConfig(),
        data=NumbersDataConfig(),
    )


class NumbersFrontend(Frontend):
    """Linear map of each patch [features] -> mask vector -> plus a position."""

    def __init__(
        self, config: NumbersFrontendConfig, encoder: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream
    ) -> None:
        super().__init__()
        D = encoder.hidden_size
        self.projection = UniformLinear(config.patch_length, D, init.at("projection"))
        self.mask_vector = nn.Parameter(torch.empty(D))
        self.positions = nn.Parameter(torch.empty(config.tokens_per_sample(), D))
        init.at("mask_vector").fill_normal(self.mask_vector.data, 1.0)
        init.at("positions").fill_normal(self.positions.data, 1.0)
        self._patch_length = config.patch_length

    def forward(
        self, rows_BT: Tensor, mask_BS: Tensor | None, padding_mask_BS: Tensor | None, features_BSD: Tensor | None = None
    ) -> FrontendOutput:
        """Encoder input (B, S, D)."""
        if features_BSD is None:
            features_BSD = self.projection(rows_BT.to(self.mask_vector.dtype).unflatten(1, (-1, self._patch_length)))
        x_BSD = features_BSD.to(self.mask_vector.dtype)
        if mask_BS is not None:
            x_BSD = torch.where(mask_BS.unsqueeze(-1), self.mask_vector, x_BSD)
        return FrontendOutput(x_BSD + self.positions, features_BND=features_BSD.detach())

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Return all names or none."""
        return set() if shares == "nothing" else {name for name, _ in self.named_parameters()}


@dataclass(frozen=True)
class Row:
    """One sample."""

    numbers: np.ndarray
    mask: np.ndarray


class NumbersData:
    """The rows of a split: the last eighth is held out."""

    def __init__(self, path: Path, recipe: Any, *, heldout: bool, seed: int) -> None:
        rows_NT = np.load(path / "numbers.npy").astype(np.float32)
        cut = len(rows_NT) * 7 // 8
        self._rows_NT = rows_NT[cut:] if heldout else rows_NT[:cut]
        self._num_tokens, self._num_masked, self._seed = recipe.frontend.tokens_per_sample(), recipe.mask.num_patches, seed
        self.fingerprint = str(float(rows_NT.sum()))

    def __len__(self) -> int:
        return len(self._rows_NT)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return a shuffled order."""
        return rng.permutation(len(self))

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> Row:
        """Return a row with its mask of that epoch."""
        mask_S = np.zeros(self._num_tokens, dtype=bool)
        mask_S[np.random.default_rng((self._seed, epoch, index)).permutation(self._num_tokens)[: self._num_masked]] = True
        return Row(self._rows_NT[index], mask_S)

    def collate(self, examples: list[Row]) -> Batch:
        """Collate one micro-batch."""
        rows_BT = torch.from_numpy(np.stack([one.numbers for one in examples]))
        mask_BS = torch.from_numpy(np.stack([one.mask for one in examples]))
        return Batch(rows_BT, rows_BT, Masks.of(mask_BS), None, None, mask_BS.numel())

    def take_bad(self) -> list[Any]:
        """Return no bad items."""
        return []


class Numbers:
    """See recipes/modalities/base.py."""

    recipes: ClassVar[Mapping[str, Callable[[], Recipe]]] = {"numbers_tiny": numbers_tiny}
    kinds: ClassVar[Kinds] = {"frontend": (NumbersFrontendConfig,), "mask": (RandomMaskConfig,), "data": (NumbersDataConfig,)}
    labelled: ClassVar[Mapping[type, Any]] = {}
    probes = ("classify",)
    benchmark_length = 0

    def check(self, recipe: Any) -> None:
        """Raises: ConfigError if patches do not fill a row."""
        if recipe.frontend.row_length % recipe.frontend.patch_length:
            raise ConfigError(f"frontend.row_length {recipe.frontend.row_length} is no multiple of {recipe.frontend.patch_length}")

    def check_data(self, recipe: Any, path: Path) -> None:
        """Raises: ConfigError if there are no numbers."""
        if not (path / "numbers.npy").exists():
            raise ConfigError(f"{path}: no numbers.npy in it")

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Return the path: there is nothing to prepare."""
        self.check_data(recipe, Path(recipe.data.path))
        return Path(recipe.data.path)

    def open_data(self, recipe: Any, prepared: Path) -> tuple[NumbersData, NumbersData]:
        """Open both splits."""
        train = NumbersData(prepared, recipe, heldout=False, seed=recipe.run.seed)
        return train, NumbersData(prepared, recipe, heldout=True, seed=0)

    def values(self, recipe: Any, prepared: Path) -> dict[str, Any]:
        """Return {}: no setting follows from the numbers."""
        return {}

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> Any:
        """Raises: ConfigError."""
        raise ConfigError("numbers have no labels")

    def build_frontend(self, recipe: Any) -> Any:
        """Return the builder of the front-end."""
        return partial(NumbersFrontend, recipe.frontend)

    def resized(self, recipe: Any, length: int) -> Recipe:
        """Return the recipe unchanged: rows have one length."""
        return recipe

    def random_batch(self, recipe: Any, size: int, length: int, rng: np.random.Generator) -> Batch:
        """Return a batch of noise."""
        num_tokens = recipe.frontend.tokens_per_sample()
        mask_BS = rng.permuted(np.arange(num_tokens)[None].repeat(size, 0), axis=1) < recipe.mask.num_patches
        rows_BT = torch.from_numpy(rng.standard_normal((size, recipe.frontend.row_length), dtype=np.float32))
        return Batch(rows_BT, rows_BT, Masks.of(torch.from_numpy(mask_BS)), None, None, mask_BS.size)


MODALITIES.setdefault("numbers", Numbers())
