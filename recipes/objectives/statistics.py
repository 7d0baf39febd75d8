"""Metrics of a whole update or evaluation, summed over micro-batches and ranks: the loss, and data2vec's statistics of predictions and
targets.

Sums are float64, so that the result does not depend on the number of ranks. Shapes: M masked positions, B batch, S sequence, D hidden.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from model.batch import Batch
from recipes.objectives.base import Outcome

VARIANCE_EPS = 1e-6  # fairseq data2vec_audio.py compute_var
PER_POSITION = ("position_count_S", "position_sum_SD")
"""Names of the sums that have an entry for each position: as many as the longest sample has. Groups of speech crops differ in length."""


@dataclass(frozen=True)
class RegressionOutcome(Outcome):
    """Result of one micro-batch of data2vec: the loss, summed over its masked positions, with predictions and targets."""

    prediction_MD: Tensor
    target_MD: Tensor
    target_BSD: Tensor
    """Targets at every position; the loss reads only the masked ones."""


@dataclass
class ChannelSums:
    """Running sums over rows of a matrix, from which std() is computed: number of rows, and sum and sum of squares of each channel."""

    count: float = 0.0
    sum_D: Tensor | float = 0.0
    square_D: Tensor | float = 0.0

    def add(self, x_MD: Tensor) -> None:
        """Add the rows of x to the sums. Shapes: (rows, channels)."""
        x_MD = x_MD.detach().double()
        self.count += len(x_MD)
        self.sum_D = self.sum_D + x_MD.sum(0)
        self.square_D = self.square_D + x_MD.square().sum(0)

    def std(self) -> float:
        """Return the standard deviation over rows, averaged over channels: mean of sqrt(unbiased variance + 1e-6). fairseq calls it
        `var`."""
        assert isinstance(self.sum_D, Tensor) and isinstance(self.square_D, Tensor)
        variance_D = (self.square_D - self.sum_D.square() / self.count) / max(1.0, self.count - 1)
        return float(torch.sqrt(variance_D.clamp(min=0) + VARIANCE_EPS).mean())


@dataclass
class UpdateStatistics:
    """Computes the metrics of one update from its micro-batches on all ranks: loss, target_std, pred_std, masked_fraction."""

    loss: float | Tensor = 0.0
    target: ChannelSums = field(default_factory=ChannelSums)
    prediction: ChannelSums = field(default_factory=ChannelSums)

    def add(self, result: RegressionOutcome) -> None:
        """Add loss, targets and predictions of one micro-batch."""
        self.loss = self.loss + result.loss.detach().double()
        self.target.add(result.target_MD)
        self.prediction.add(result.prediction_MD)

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """Return the metrics of the update over all ranks of `group`. A collective; a rank without masked positions contributes zeros.
        `total`: masked positions of the update, `tokens`: all its positions."""
        for sums in (self.target, self.prediction):
            reduce_sums(sums, group)
        loss = torch.as_tensor(self.loss, dtype=torch.float64).clone()
        dist.all_reduce(loss, group=group)
        return {
            "loss": float(loss) / self.target.count,
            "target_std": self.target.std(),
            "pred_std": self.prediction.std(),
            "masked_fraction": total / tokens,
        }


def reduce_sums(sums: ChannelSums, group: dist.ProcessGroup) -> None:
    """Replace each rank's sums by the totals over all ranks of `group`, in one collective."""
    assert isinstance(sums.sum_D, Tensor) and isinstance(sums.square_D, Tensor)
    packed = torch.cat([sums.sum_D.new_tensor([sums.count]), sums.sum_D, sums.square_D])
    dist.all_reduce(packed, group=group)
    sums.count = float(packed[0])
    sums.sum_D, sums.square_D = packed[1:].chunk(2)


class LossStatistics:
    """Collects the loss of one update, for objectives without targets of their own making."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def add(self, outcome: Outcome) -> None:
        """Add one micro-batch."""
        self._losses.append(outcome.loss.detach().double())

    def reduce(self, group: dist.ProcessGroup, total: int, tokens: int) -> dict[str, float]:
        """Return the mean over all `total` items of the update that the loss counts. A collective."""
        loss = sum(self._losses, torch.zeros_like(self._losses[0]))
        dist.all_reduce(loss, group=group)
        return {"loss": float(loss) / total}


class EvaluationStatistics:
    """Computes metrics on held-out data that show faults which the loss does not: targets that depend only on the position, rank
    collapse, smoothing over neighbours, a constant front-end."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def _add(self, name: str, value: Tensor) -> None:
        value = value.double()
        if name in self._sums and name in PER_POSITION:
            longest = max(len(value), len(self._sums[name]))
            value, self._sums[name] = _lengthen(value, longest), _lengthen(self._sums[name], longest)
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def add(self, batch: Batch, result: RegressionOutcome, frontend_BSD: Tensor) -> None:
        """Add one micro-batch, or zeros if it is not counted: loss and error at masked positions; targets and front-end output
        (`frontend_BSD`) at all positions without padding."""
        for name, value in _sums_of(batch, result, frontend_BSD).items():
            self._add(name, value if batch.is_counted else torch.zeros_like(value))

    def reduce(self, group: dist.ProcessGroup) -> dict[str, float]:
        """Return the held-out metrics over all ranks of `group`: eval_loss, explained_variance, target_rank, neighbour_correlation,
        frontend_std. A collective."""
        longest = torch.tensor(len(self._sums["position_count_S"]), device=self._sums["loss"].device)
        dist.all_reduce(longest, dist.ReduceOp.MAX, group=group)
        for name in PER_POSITION:
            self._sums[name] = _lengthen(self._sums[name], int(longest))
        packed = torch.cat([value.reshape(-1) for value in self._sums.values()])
        dist.all_reduce(packed, group=group)
        parts = packed.split([value.numel() for value in self._sums.values()])
        sums = {name: part.view_as(value) for (name, value), part in zip(self._sums.items(), parts, strict=True)}
        mean_D = sums["target_sum_D"] / sums["count"]
        covariance_DD = sums["target_outer_DD"] / sums["count"] - torch.outer(mean_D, mean_D)
        neighbour_D = (sums["pair_product_D"] / sums["pairs"].clamp(min=1) - mean_D.square()) / covariance_DD.diagonal().clamp(min=1e-12)
        means_SD = sums["position_sum_SD"] / sums["position_count_S"].clamp(min=1)[:, None]
        spread = sums["square"] - (sums["position_count_S"][:, None] * means_SD.square()).sum()
        return {
            "eval_loss": float(sums["loss"] / sums["position_count_S"].sum()),
            "explained_variance": 1 - float(sums["error"] / spread.clamp(min=1e-12)),
            "target_rank": effective_rank(covariance_DD),
            "neighbour_correlation": float(neighbour_D.mean()),
            "frontend_std": ChannelSums(float(sums["count"]), sums["frontend_sum_D"], sums["frontend_square_D"]).std(),
        }


def _sums_of(batch: Batch, result: RegressionOutcome, frontend_BSD: Tensor) -> dict[str, Tensor]:
    """Return the sums of one micro-batch, by their names."""
    target_BSD, target_MD = result.target_BSD.double(), result.target_MD.double()
    B, S, D = target_BSD.shape
    position_M = batch.masks.masked_index_M % S
    if batch.segments is not None:
        position_M = batch.segments.position_BS.flatten()[batch.masks.masked_index_M]
    keep_BS = torch.ones(B, S, dtype=torch.bool, device=target_BSD.device)
    if batch.clean_padding_mask_BS is not None:
        keep_BS = ~batch.clean_padding_mask_BS
    target_ND, frontend_ND = target_BSD[keep_BS], frontend_BSD.double()[keep_BS]
    pair_BS = keep_BS[:, 1:] & keep_BS[:, :-1]
    if batch.segments is not None:
        pair_BS &= batch.segments.segment_BS[:, 1:] == batch.segments.segment_BS[:, :-1]
    return {
        "loss": result.loss,
        "error": (target_MD - result.prediction_MD.double()).square().sum(),
        "square": target_MD.square().sum(),
        "position_count_S": torch.bincount(position_M, minlength=S),
        "position_sum_SD": target_MD.new_zeros(S, D).index_add_(0, position_M, target_MD),
        "count": keep_BS.sum(),
        "target_sum_D": target_ND.sum(0),
        "target_outer_DD": target_ND.T @ target_ND,
        "pairs": pair_BS.sum(),
        "pair_product_D": (target_BSD[:, 1:] * target_BSD[:, :-1])[pair_BS].sum(0),
        "frontend_sum_D": frontend_ND.sum(0),
        "frontend_square_D": frontend_ND.square().sum(0),
    }


def _lengthen(sum_S: Tensor, length: int) -> Tensor:
    """Return the tensor with zeros appended along its first dimension, up to `length`."""
    return torch.cat([sum_S, sum_S.new_zeros(length - len(sum_S), *sum_S.shape[1:])])


def effective_rank(covariance_DD: Tensor) -> float:
    """Return the effective rank of targets with this covariance: exp of the entropy of its eigenvalues' shares. It is the number of
    channels for white targets, and 1 for targets on a line."""
    eigenvalues_D = torch.linalg.eigvalsh(covariance_DD).clamp(min=0)
    shares_D = eigenvalues_D / eigenvalues_D.sum().clamp(min=1e-12)
    return math.exp(-float(torch.special.xlogy(shares_D, shares_D).sum()))
