"""Cross-entropy with class weights, label smoothing and mixed classes, and the metrics of classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from recipes.objectives.classify import Classify, ClassTask
from recipes.supervised_config import ClassifyConfig
from tests.recipes.objectives.labelled_batches import batch_of

LABELS = tuple("abcdefgh")
OUTPUTS = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(8, (50,), generator=torch.Generator().manual_seed(1))
WEIGHTS = (0.5, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 3.0)


def scores_of(outputs: torch.Tensor, classes: torch.Tensor, labels: tuple[str, ...]) -> dict[str, float]:
    task = ClassTask(ClassifyConfig(labels=labels))
    return task.metrics(task.results(outputs, batch_of(classes)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_the_loss_of_a_sample_is_torchs_cross_entropy(smoothing: float, weights: tuple[float, ...]) -> None:
    config = ClassifyConfig(labels=LABELS, label_smoothing=smoothing, class_weights=weights)
    found = ClassTask(config).losses(OUTPUTS, batch_of(CLASSES))
    weight = torch.tensor(weights) if weights else None
    torch.testing.assert_close(found, F.cross_entropy(OUTPUTS, CLASSES, weight, reduction="none", label_smoothing=smoothing))
    if weights and not smoothing:
        plain = F.cross_entropy(OUTPUTS, CLASSES, reduction="none")
        torch.testing.assert_close(found, plain * torch.tensor(weights)[CLASSES])


def test_mixed_classes_are_shares() -> None:
    shares_BC = F.one_hot(CLASSES, 8) * 0.7 + F.one_hot(CLASSES.roll(1), 8) * 0.3
    task = ClassTask(ClassifyConfig(labels=LABELS, label_smoothing=0.1))
    found = task.losses(OUTPUTS, batch_of(shares_BC))
    expected = 0.7 * F.cross_entropy(OUTPUTS, CLASSES, reduction="none") + 0.3 * F.cross_entropy(OUTPUTS, CLASSES.roll(1), reduction="none")
    torch.testing.assert_close(found, expected)


def test_a_sample_without_label_has_a_finite_loss() -> None:
    assert ClassTask(ClassifyConfig(labels=LABELS)).losses(OUTPUTS, batch_of(torch.full((50,), -1))).isfinite().all()


def test_the_metrics_are_those_of_scikit_learn() -> None:
    found, truth, predicted = scores_of(OUTPUTS, CLASSES, LABELS), CLASSES.numpy(), OUTPUTS.argmax(1).numpy()
    assert found.keys() == {"accuracy", "macro_f1", "matthews", "top5_accuracy"}
    assert found["accuracy"] == accuracy_score(truth, predicted)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(truth, predicted))
    top = np.argsort(-OUTPUTS.numpy(), axis=1)[:, :5]
    assert found["top5_accuracy"] == pytest.approx((top == truth[:, None]).any(1).mean())


@pytest.mark.parametrize("constant", [0.0, float("nan"), float("inf")])
def test_a_network_with_constant_or_nan_outputs_has_no_top5_accuracy(constant: float) -> None:
    assert scores_of(torch.full((50, 8), constant), CLASSES, LABELS)["top5_accuracy"] == 0


def test_two_classes_have_the_f1_of_the_second() -> None:
    found, truth, predicted = scores_of(OUTPUTS[:, :2], CLASSES % 2, ("no", "yes")), CLASSES.numpy() % 2, OUTPUTS[:, :2].argmax(1).numpy()
    assert found.keys() == {"accuracy", "f1", "macro_f1", "matthews", "acc_and_f1"}
    assert found["f1"] == pytest.approx(f1_score(truth, predicted)) and found["acc_and_f1"] == (found["accuracy"] + found["f1"]) / 2


def test_a_prediction_is_the_most_probable_class_and_its_probability() -> None:
    outputs = torch.tensor([[0.0, 2.0], [5.0, 5.0 - 1e-3]])
    predictions = ClassTask(ClassifyConfig(labels=("no", "yes"))).predictions(outputs, batch_of(CLASSES[:2]))
    assert [one.text for one in predictions] == ["yes", "no"]
    assert predictions[0].score == pytest.approx(1 / (1 + np.exp(-2)))


def test_every_metric_of_a_column_is_one_of_the_task() -> None:
    there = {*scores_of(OUTPUTS, CLASSES, LABELS), *scores_of(OUTPUTS[:, :2], CLASSES % 2, ("no", "yes")), "eval_loss"}
    assert {column.key for column in Classify.display.at_evaluations} <= there
