"""Statistics of predictions and targets over a whole update or evaluation, summed over micro-batches and ranks.

Sums are float64, so that the number of ranks does not show. Shapes: M masked positions, B batch, S sequence, D hidden.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from model.batch import Batch
from recipes.train.objective import Objective

VARIANCE_EPS = 1e-6  # fairseq data2vec_audio.py compute_var


@dataclass
class ChannelSums:
    """Count, sum and sum of squares per channel."""

    count: float = 0.0
    sum_D: Tensor | float = 0.0
    square_D: Tensor | float = 0.0

    def add(self, x_MD: Tensor) -> None:
        """Take in rows."""
        x_MD = x_MD.detach().double()
        self.count += len(x_MD)
        self.sum_D = self.sum_D + x_MD.sum(0)
        self.square_D = self.square_D + x_MD.square().sum(0)

    def std(self) -> float:
        """Mean over channels of sqrt(unbiased variance over rows + 1e-6), which fairseq calls `var`."""
        assert isinstance(self.sum_D, Tensor) and isinstance(self.square_D, Tensor)
        variance_D = (self.square_D - self.sum_D.square() / self.count) / max(1.0, self.count - 1)
        return float(torch.sqrt(variance_D.clamp(min=0) + VARIANCE_EPS).mean())


@dataclass
class UpdateStatistics:
    """What metrics.jsonl says of one update: loss, target_std, pred_std."""

    hidden_size: int
    loss: float | Tensor = 0.0
    target: ChannelSums = field(default_factory=ChannelSums)
    prediction: ChannelSums = field(default_factory=ChannelSums)

    def add(self, result: Objective) -> None:
        """Take in one micro-batch."""
        self.loss = self.loss + result.loss.detach().double()
        self.target.add(result.target_MD)
        self.prediction.add(result.prediction_MD)

    def reduce(self, group: dist.ProcessGroup) -> dict[str, float]:
        """The metrics over all ranks of `group`; a collective. A rank without masked positions takes part with zeros."""
        for sums in (self.target, self.prediction):
            reduce_sums(sums, group)
        loss = torch.as_tensor(self.loss, dtype=torch.float64).clone()
        dist.all_reduce(loss, group=group)
        return {"loss": float(loss) / self.target.count, "target_std": self.target.std(), "pred_std": self.prediction.std()}


def reduce_sums(sums: ChannelSums, group: dist.ProcessGroup) -> None:
    """Sum over the ranks of `group`, in one collective."""
    assert isinstance(sums.sum_D, Tensor) and isinstance(sums.square_D, Tensor)
    packed = torch.cat([sums.sum_D.new_tensor([sums.count]), sums.sum_D, sums.square_D])
    dist.all_reduce(packed, group=group)
    sums.count = float(packed[0])
    sums.sum_D, sums.square_D = packed[1:].chunk(2)


@dataclass
class EvaluationStatistics:
    """Held-out monitors: what the loss does not show (position shortcut, rank collapse, smoothing, a dying front-end)."""

    sequence_length: int
    hidden_size: int
    device: torch.device

    def __post_init__(self) -> None:
        S, D = self.sequence_length, self.hidden_size
        zeros = {"dtype": torch.float64, "device": self.device}
        self.loss, self.masked, self.error = (torch.zeros((), **zeros) for _ in range(3))
        self.square = torch.zeros((), **zeros)
        self.position_count_S, self.position_sum_SD = torch.zeros(S, **zeros), torch.zeros(S, D, **zeros)
        self.target_sum_D, self.target_outer_DD, self.targets = torch.zeros(D, **zeros), torch.zeros(D, D, **zeros), torch.zeros((), **zeros)
        self.neighbour_D, self.neighbours = torch.zeros(D, **zeros), torch.zeros((), **zeros)
        self.frontend_sum_D, self.frontend_square_D, self.frontend = torch.zeros(D, **zeros), torch.zeros(D, **zeros), torch.zeros((), **zeros)

    def add(self, batch: Batch, result: Objective, frontend_BSD: Tensor) -> None:
        """Take in one micro-batch: the objective at masked positions, targets and front-end output at all."""
        target_BSD = result.target_BSD.double()
        keep_BS = torch.ones(target_BSD.shape[:2], dtype=torch.bool, device=self.device)
        if batch.clean_padding_mask_BS is not None:
            keep_BS = ~batch.clean_padding_mask_BS
        target_MD, prediction_MD = result.target_MD.double(), result.prediction_MD.double()
        self.loss += result.loss.double()
        self.masked += len(target_MD)
        self.error += (target_MD - prediction_MD).square().sum()
        self.square += target_MD.square().sum()
        position_M = batch.masked_index_M % target_BSD.shape[1]
        self.position_count_S.index_add_(0, position_M, torch.ones_like(position_M, dtype=torch.float64))
        self.position_sum_SD.index_add_(0, position_M, target_MD)
        rows_ND = target_BSD[keep_BS]
        self.targets += len(rows_ND)
        self.target_sum_D += rows_ND.sum(0)
        self.target_outer_DD += rows_ND.T @ rows_ND
        pair_BS = keep_BS[:, 1:] & keep_BS[:, :-1]
        self.neighbours += pair_BS.sum()
        self.neighbour_D += (target_BSD[:, 1:] * target_BSD[:, :-1])[pair_BS].sum(0)
        frontend_ND = frontend_BSD.double()[keep_BS]
        self.frontend += len(frontend_ND)
        self.frontend_sum_D += frontend_ND.sum(0)
        self.frontend_square_D += frontend_ND.square().sum(0)

    def reduce(self, group: dist.ProcessGroup) -> dict[str, float]:
        """The monitors over all ranks of `group`; a collective."""
        sums = [value for value in vars(self).values() if isinstance(value, Tensor)]
        packed = torch.cat([s.reshape(-1) for s in sums])
        dist.all_reduce(packed, group=group)
        for total, part in zip(sums, packed.split([s.numel() for s in sums]), strict=True):
            total.copy_(part.view_as(total))
        mean_D = self.target_sum_D / self.targets
        covariance_DD = self.target_outer_DD / self.targets - torch.outer(mean_D, mean_D)
        variance_D = covariance_DD.diagonal().clamp(min=1e-12)
        neighbour_D = (self.neighbour_D / self.neighbours.clamp(min=1) - mean_D.square()) / variance_D
        frontend = ChannelSums(float(self.frontend), self.frontend_sum_D, self.frontend_square_D)
        return {
            "eval_loss": float(self.loss / self.masked),
            "explained_variance": 1 - float(self.error) / self._spread_around_position_means(),
            "target_rank": effective_rank(covariance_DD),
            "neighbour_correlation": float(neighbour_D.mean()),
            "frontend_std": frontend.std(),
        }

    def _spread_around_position_means(self) -> float:
        means_SD = self.position_sum_SD / self.position_count_S.clamp(min=1)[:, None]
        explained = (self.position_count_S[:, None] * means_SD.square()).sum()
        return max(float(self.square - explained), 1e-12)


def effective_rank(covariance_DD: Tensor) -> float:
    """exp of the entropy of the eigenvalues' shares: D for white targets, 1 for targets on a line."""
    eigenvalues_D = torch.linalg.eigvalsh(covariance_DD).clamp(min=0)
    shares_D = eigenvalues_D / eigenvalues_D.sum().clamp(min=1e-12)
    return math.exp(-float(torch.special.xlogy(shares_D, shares_D).sum()))
