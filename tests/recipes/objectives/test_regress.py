"""Squared error, and the metrics of numbers."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from recipes.objectives.regress import NumberTask
from recipes.supervised_config import RegressConfig
from tests.recipes.objectives.labelled_batches import batch_of

OUTPUTS = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
NUMBERS = OUTPUTS[:, 0] + torch.randn(40, generator=torch.Generator().manual_seed(1))
TASK = NumberTask(RegressConfig())


def test_the_loss_of_a_sample_is_its_squared_error() -> None:
    assert TASK.losses(torch.tensor([[1.0], [2.0]]), batch_of(torch.tensor([3.0, 2.5]))).tolist() == [4.0, 0.25]


def test_the_metrics_are_those_of_scipy() -> None:
    found = TASK.metrics(TASK.results(OUTPUTS, batch_of(NUMBERS)))
    truth, predicted = NUMBERS.double().numpy(), OUTPUTS[:, 0].double().numpy()
    assert found["pearson"] == pytest.approx(pearsonr(truth, predicted)[0])
    assert found["spearman"] == pytest.approx(spearmanr(truth, predicted)[0])
    assert found["pearson_and_spearman"] == (found["pearson"] + found["spearman"]) / 2
    assert found["mse"] == pytest.approx(((truth - predicted) ** 2).mean())


def test_a_constant_prediction_has_no_correlation() -> None:
    found = TASK.metrics(TASK.results(torch.ones(40, 1), batch_of(NUMBERS)))
    assert np.isnan(found["pearson_and_spearman"]) and found["mse"] > 0


def test_a_prediction_is_the_number() -> None:
    (one,) = TASK.predictions(torch.tensor([[2.5]]), batch_of(torch.tensor([0.0])))
    assert (one.text, one.score) == ("2.5", 2.5)
