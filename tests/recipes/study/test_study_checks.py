"""What the keys of a study file mean: names that do not exist, and keys that contradict each other, are one line with the remedy."""

from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.study.study_checks import check_study
from recipes.study.study_file import read_study
from tests.made_up_study import made_up_study

HIDDEN, STEPS = "model.hidden_size", "run.max_steps"


def refusal(folder: Path, **keys: Any) -> str:
    path = made_up_study(folder, **keys)
    with pytest.raises(ConfigError) as found:
        check_study(read_study(path))
    return str(found.value)


def test_an_unknown_setting_is_refused_with_its_place(tmp_path: Path) -> None:
    text = refusal(tmp_path, axes={"model.hiden_size": [32]})
    assert "axes: recipe text_tiny has no 'model.hiden_size'; did you mean model.hidden_size" in text
    assert "set: recipe text_tiny has no" in refusal(tmp_path, set={"optim.learning_rate": 1})
    assert "has no 'rank'" in refusal(tmp_path, axes={"size": [{"rank": 2}]})


def test_seeds_are_given_once_and_not_as_a_setting(tmp_path: Path) -> None:
    assert "stands twice" in refusal(tmp_path, seeds=[1, 2, 1])
    assert '"seeds": [1, 2, 3]' in refusal(tmp_path, axes={"run.seed": [1, 2]})
    assert '"seeds": [1, 2, 3]' in refusal(tmp_path, set={"run.seed": 1})


@pytest.mark.parametrize(
    "keys",
    [
        {"axes": {STEPS: [20], "flops": [1e12]}},
        {"axes": {"flops": [1e12]}, "set": {STEPS: 20}},
        {"axes": {"tokens": [1e6]}, "set": {"flops": 1e12}},
        {"axes": {"size": [{"name": "a", STEPS: 20}], "tokens": [1e6]}},
    ],
)
def test_the_length_is_given_once(keys: dict[str, Any], tmp_path: Path) -> None:
    assert "both say how long a run is" in refusal(tmp_path, **keys)


@pytest.mark.parametrize(
    "axes",
    [
        {HIDDEN: [32, 64], "size": [{"name": "big", HIDDEN: 128}]},
        {"a": [{"name": "x", HIDDEN: 32}], "b": [{"name": "y", HIDDEN: 64}]},
    ],
)
def test_two_axes_do_not_give_one_setting(axes: dict[str, Any], tmp_path: Path) -> None:
    """Else the later axis wins, and the name of the cell shows a value that it does not have."""
    assert HIDDEN in refusal(tmp_path, axes=axes)


@pytest.mark.parametrize("value", [0, -1, "1e12", None, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["flops", "tokens"])
def test_a_budget_is_a_finite_number_above_0(name: str, value: Any, tmp_path: Path) -> None:
    assert f"{name} has" in refusal(tmp_path, axes={name: [value]})


@pytest.mark.parametrize("value", [0, -2, 1.5, True, "2"])
def test_ranks_are_whole_numbers(value: Any, tmp_path: Path) -> None:
    assert "ranks has" in refusal(tmp_path, axes={"ranks": [value]})


def test_what_a_key_names_must_exist(tmp_path: Path) -> None:
    assert "text_tny" in refusal(tmp_path, base="text_tny")
    assert "zero9" in refusal(tmp_path, deepspeed_config="zero9")
    assert "zero9" in refusal(tmp_path, axes={"deepspeed_config": ["zero3_cpu", "zero9"]})
    assert "a100x" in refusal(tmp_path, cluster="device=a100x")
    assert "fit: 'heldout' is no key; known are held_out" in refusal(tmp_path, fit={"heldout": 1})


@pytest.mark.parametrize(
    ("metric", "part"),
    [
        ("lossy", "metric is 'lossy'; did you mean loss? there are loss, "),
        ("probe.", "metric is 'probe.'; there are probe.cloze, probe.classify, probe.reference"),
        ("probe.close", "did you mean cloze?"),
    ],
)
def test_a_metric_that_no_run_has_is_refused_before_the_training(metric: str, part: str, tmp_path: Path) -> None:
    assert part in refusal(tmp_path, metric=metric)


def test_a_metric_of_a_probe_needs_one(tmp_path: Path) -> None:
    assert "eval.probe_steps is 0" in refusal(tmp_path, set={"eval.probe_steps": 0})
    assert "both metric and the axis eval.probe_task set eval.probe_task" in refusal(
        tmp_path, metric="probe.cloze", axes={"eval.probe_task": ["cloze", "classify"]}
    )


@pytest.mark.parametrize(
    ("fit", "part"),
    [
        ({"size": "params"}, "fit: size is 'params'; did you mean parameters? known are block_parameters"),
        ({"where": {"ds": "b"}}, "fit: where: 'ds' is no axis; known are model.hidden_size, run.max_steps"),
        *(({"where": value}, "must be an object") for value in (["flops"], 3, "flops")),
        *(({"held_out": value}, "must be true or false") for value in (0, "false")),
        ({"size": ["x"]}, "must be the name of a column"),
    ],
)
def test_options_of_the_fit_are_checked(fit: dict[str, Any], part: str, tmp_path: Path) -> None:
    assert part in refusal(tmp_path, fit=fit)


@pytest.mark.parametrize("where", [{"hidden_size": 32}, {HIDDEN: 32}])
def test_an_axis_may_be_named_shortly_or_whole(where: dict[str, Any], tmp_path: Path) -> None:
    check_study(read_study(made_up_study(tmp_path, fit={"where": where})))
