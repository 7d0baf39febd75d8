"""The monitors against torch's own statistics and against data with a known answer, for any distribution of rows over ranks.

Shapes: B batch, S sequence, M masked positions, D hidden.
"""

from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.batch import Batch, Masks
from recipes.objectives.statistics import (
    VARIANCE_EPS,
    ChannelSums,
    EvaluationStatistics,
    RegressionOutcome,
    UpdateStatistics,
    effective_rank,
)
from tests.distributed import run_distributed

B, S, D = 64, 10, 6
TOKENS = 160
"""Number of positions of an update, masked or not."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_std_is_torchs_mean_over_channels_of_the_unbiased_std() -> None:
    x_MD = 3 * noise(50, D) + torch.arange(D) * 100
    sums = ChannelSums()
    for part in x_MD.split(7):
        sums.add(part)
    assert sums.std() == pytest.approx(float((x_MD.double().var(0) + VARIANCE_EPS).sqrt().mean()), rel=1e-9)
    assert sums.std() == pytest.approx(float(x_MD.std(0).mean()), rel=1e-4)


def test_constant_rows_have_the_std_that_fairseqs_epsilon_leaves() -> None:
    sums = ChannelSums()
    sums.add(torch.full((20, D), 1e4))
    assert sums.std() == pytest.approx(1e-3, rel=1e-6)


def test_one_row_is_no_division_by_zero() -> None:
    sums = ChannelSums()
    sums.add(torch.ones(1, D))
    assert sums.std() == pytest.approx(1e-3)


def test_effective_rank_of_white_noise_is_the_dimension_and_of_a_line_one() -> None:
    white = torch.cov(noise(5000, D).double().T)
    assert effective_rank(white) == pytest.approx(D, rel=0.01)
    line_D = torch.arange(1, D + 1).double()
    assert effective_rank(torch.outer(line_D, line_D)) == pytest.approx(1, abs=1e-6)
    plane = torch.diag(torch.tensor([5.0, 5.0, 0, 0, 0, 0]).double())
    assert effective_rank(plane) == pytest.approx(2, abs=1e-6)
    assert effective_rank(3.7 * white) == pytest.approx(effective_rank(white)), "the scale does not matter"
    assert effective_rank(torch.zeros(D, D).double()) == pytest.approx(1), "all targets equal: no direction, and no NaN"


def batch_of(mask_BS: Tensor, padding_BS: Tensor | None = None) -> Batch:
    ids = torch.zeros_like(mask_BS, dtype=torch.long)
    return Batch(ids, ids, Masks.of(mask_BS), padding_BS, padding_BS, mask_BS.numel())


def evaluation(rank: int, size: int, target_BSD: Tensor, prediction_BSD: Tensor, padding_BS: Tensor | None = None) -> EvaluationStatistics:
    """Return statistics of this rank's rows, in micro-batches of 4. One position in three is masked (shifted per row), never padding."""
    statistics = EvaluationStatistics()
    mask_BS = (torch.arange(S) + torch.arange(len(target_BSD))[:, None]) % 3 == 0
    mask_BS &= torch.ones_like(mask_BS) if padding_BS is None else ~padding_BS
    for rows in torch.arange(len(target_BSD)).chunk(size)[rank].split(4):
        mask = mask_BS[rows]
        target_MD, prediction_MD = target_BSD[rows][mask], prediction_BSD[rows][mask]
        loss = (target_MD - prediction_MD).square().sum()
        batch = batch_of(mask, None if padding_BS is None else padding_BS[rows])
        statistics.add(batch, RegressionOutcome(loss, prediction_MD, target_MD, target_BSD[rows]), 2 * target_BSD[rows])
    return statistics


def reduced(*args: Tensor | None) -> dict[str, float]:
    return evaluation(dist.get_rank(), dist.get_world_size(), *args).reduce(dist.group.WORLD)


def reduced_all(cases: list[tuple]) -> list[dict[str, float]]:
    return [reduced(*case) for case in cases]


def known_cases() -> dict[str, tuple[Tensor, ...]]:
    """Return targets that depend partly on their position, with predictions that are exact, depend on the position only, or are 0."""
    position_SD = 5 * noise(S, D, seed=1)
    target_BSD = position_SD + noise(B, S, D)
    padding_BS = torch.zeros(B, S, dtype=torch.bool)
    padding_BS[:, -2:] = True
    padded_BSD = target_BSD.masked_fill(padding_BS[..., None], 1e3)
    wave_BSD = noise(B, 1, D).expand(B, S, D)
    return {
        "all": (target_BSD, target_BSD),
        "half": (target_BSD, position_SD + (target_BSD - position_SD) / 2),
        "position": (target_BSD, position_SD.expand(B, S, D)),
        "nothing": (target_BSD, torch.zeros(B, S, D)),
        "padded": (padded_BSD, padded_BSD, padding_BS),
        "smooth": (wave_BSD, wave_BSD),
    }


@pytest.fixture(scope="module")
def monitors() -> dict[str, dict[str, float]]:
    """The monitors of every known case on one rank. Two ranks must give the same."""
    cases = known_cases()
    (alone,) = run_distributed(reduced_all, 1, list(cases.values()))
    for shared in run_distributed(reduced_all, 2, list(cases.values())):
        for one, other in zip(alone, shared, strict=True):
            assert other == pytest.approx(one, rel=1e-9), "the result depends on the number of ranks"
    return dict(zip(cases, alone, strict=True))


def test_explained_variance_is_one_for_a_perfect_prediction(monitors: dict) -> None:
    assert monitors["all"]["explained_variance"] == pytest.approx(1)
    assert monitors["all"]["eval_loss"] == 0


def test_a_prediction_from_the_position_alone_explains_nothing(monitors: dict) -> None:
    """The mean over these few rows explains a little more than the true mean: minus (positions / masked) of the variance."""
    assert -0.1 < monitors["position"]["explained_variance"] <= 0
    assert monitors["nothing"]["explained_variance"] < -5, "worse than the position"
    assert monitors["half"]["explained_variance"] == pytest.approx(0.75, abs=0.03)


def test_eval_loss_is_a_mean_over_masked_positions(monitors: dict) -> None:
    assert monitors["position"]["eval_loss"] == pytest.approx(D, rel=0.1), "unit variance in every channel"


def test_rank_and_frontend_std_are_those_of_all_targets(monitors: dict) -> None:
    target_BSD = known_cases()["all"][0].double().flatten(0, 1)
    assert monitors["all"]["target_rank"] == pytest.approx(effective_rank(torch.cov(target_BSD.T, correction=0)), rel=1e-6)
    assert monitors["all"]["frontend_std"] == pytest.approx(float((2 * target_BSD).std(0).mean()), rel=1e-6)


def test_padding_is_in_no_monitor(monitors: dict) -> None:
    target_ND = known_cases()["all"][0].double()[:, :-2].flatten(0, 1)
    assert monitors["padded"]["frontend_std"] == pytest.approx(float((2 * target_ND).std(0).mean()), rel=1e-6)
    assert monitors["padded"]["target_rank"] == pytest.approx(effective_rank(torch.cov(target_ND.T, correction=0)), rel=1e-6)
    assert abs(monitors["padded"]["neighbour_correlation"]) < 2


def test_neighbours_that_are_equal_correlate_and_noise_does_not(monitors: dict) -> None:
    assert monitors["smooth"]["neighbour_correlation"] == pytest.approx(1, abs=0.02)
    (white,) = run_distributed(reduced, 1, noise(B, S, D), noise(B, S, D))
    assert abs(white["neighbour_correlation"]) < 0.1


def reduced_in_groups(target_BSD: Tensor, prediction_BSD: Tensor, lengths: list[int]) -> dict[str, float]:
    """Return the monitors of groups of 4 rows. Each group has its own length and is on one rank only."""
    statistics, rank, size = EvaluationStatistics(), dist.get_rank(), dist.get_world_size()
    mask_BS = (torch.arange(S) + torch.arange(len(target_BSD))[:, None]) % 3 == 0
    for group in range(rank * len(lengths) // size, (rank + 1) * len(lengths) // size):
        rows = slice(4 * group, 4 * group + 4)
        target_GSD, mask_GS = target_BSD[rows, : lengths[group]], mask_BS[rows, : lengths[group]]
        target_MD, prediction_MD = target_GSD[mask_GS], prediction_BSD[rows, : lengths[group]][mask_GS]
        loss = (target_MD - prediction_MD).square().sum()
        statistics.add(batch_of(mask_GS, None), RegressionOutcome(loss, prediction_MD, target_MD, target_GSD), 2 * target_GSD)
    return statistics.reduce(dist.group.WORLD)


@pytest.mark.parametrize("lengths", [[S, S - 1, S - 3, 3], [3, S - 3, S - 1, S]], ids=["shrinking", "growing"])
def test_groups_of_unequal_length_count_as_rows_padded_to_the_longest(lengths: list[int]) -> None:
    """As in speech: each group of held-out recordings has its own crop length, and no rank has all groups."""
    target_BSD, prediction_BSD = 3 * noise(S, D, seed=1) + noise(16, S, D), noise(16, S, D, seed=2)
    padding_BS = torch.arange(S) >= torch.tensor(lengths).repeat_interleave(4)[:, None]
    (padded,) = run_distributed(reduced, 1, target_BSD, prediction_BSD, padding_BS)
    for size in (1, 2):
        for cut in run_distributed(reduced_in_groups, size, target_BSD, prediction_BSD, lengths):
            assert cut == pytest.approx(padded, rel=1e-9)


def update_metrics(target_MD: Tensor, prediction_MD: Tensor) -> dict[str, float]:
    """Return the metrics of an update whose micro-batches and ranks have unequal numbers of rows. With three ranks the last has none."""
    statistics, rank = UpdateStatistics(), dist.get_rank()
    bounds = [0, 5, 17, len(target_MD)] if dist.get_world_size() == 1 else [[0, 5, 17], [17, len(target_MD)], [0, 0]][rank]
    for start, end in pairwise(bounds):
        t, p = target_MD[start:end], prediction_MD[start:end]
        statistics.add(RegressionOutcome((t - p).abs().sum(), p, t, t))
    return statistics.reduce(dist.group.WORLD, len(target_MD), TOKENS)


def test_the_metrics_of_an_update_do_not_depend_on_its_split() -> None:
    target_MD, prediction_MD = noise(40, D), noise(40, D, seed=1) / 10
    (alone,) = run_distributed(update_metrics, 1, target_MD, prediction_MD)
    assert alone["loss"] == pytest.approx(float((target_MD - prediction_MD).abs().sum() / 40), rel=1e-6)
    assert alone["masked_fraction"] == 40 / TOKENS
    assert alone["target_std"] == pytest.approx(float(target_MD.std(0).mean()), rel=1e-5)
    assert alone["pred_std"] == pytest.approx(float(prediction_MD.std(0).mean()), rel=1e-3)
    for shared in run_distributed(update_metrics, 3, target_MD, prediction_MD):
        assert shared == pytest.approx(alone, rel=1e-9)
