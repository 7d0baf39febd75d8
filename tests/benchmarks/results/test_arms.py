"""The comparison as a whole, on a text network of two updates and a made-up data set: every cell by the project's own commands, its
tables and pictures, and nothing computed twice.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from results.arms import Arms, choice_name, finetune_name
from results.baselines import BASELINES
from results.cells import Cells
from results.curves import write_curves
from results.page import tables_of
from results.tasks import CLOZE, CONTROL, DATA2VEC, MEAN, RANDOM, Budget, Network, Task
from tests.launching import ROOT
from tests.made_up import write_book
from tests.recipes.finetune.reviews import write_reviews

SHORT = ("frontend.vocab_size=200", "run.max_steps=2", "optim.schedule_steps=2", "optim.warmup_steps=1", "teacher.ema_anneal_end_step=2")
NETWORKS = (
    Network("text", DATA2VEC, "text_tiny", "book", SHORT),
    Network("text", CONTROL, "text_small_mlm", "book", SHORT),
)
FEW, ALL = Budget(8, 2, 8, 0), Budget(0, 2, 8, 0)
TASK = Task("reviews", "text", "classify", (FEW, ALL), ("1e-3", "2e-3"), MEAN)


def arms_in(tmp_path: Path, networks: Sequence[Network] = NETWORKS) -> Arms:
    """Return the comparison of networks on the task above, in a folder with their data."""
    data = tmp_path / "data"
    if not data.exists():
        (data / "book").mkdir(parents=True)
        write_book(data / "book" / "book.txt")
        write_reviews(data / "reviews")
    return Arms(
        Cells(tmp_path / "out", tmp_path / "kept", jobs=2), data, ROOT / "ds_configs" / "zero3_cpu_bf16.json", (TASK,), networks, seeds=2
    )


def test_the_cells_are_those_of_the_arms_rates_and_labels(tmp_path: Path) -> None:
    arms = arms_in(tmp_path)
    assert arms.arms_of("text") == [DATA2VEC, CONTROL, RANDOM] and arms.arms_of("speech") == [RANDOM]
    chosen = [cell.name for cell in arms.choices()]
    assert chosen == [choice_name(TASK, ALL, arm, rate) for arm in (DATA2VEC, CONTROL, RANDOM) for rate in TASK.rates], (
        "few labels ask for none"
    )
    assert len(list(arms.finetuning())) == 6 and len(list(arms.pretraining())) == 2
    other = arms.of_modalities(["speech", "vision"])
    assert not [*other.pretraining(), *other.probes(), *other.choices(), *other.finetuning()]
    assert [cell.name for cell in arms.of_modalities(["speech", "text"]).choices()] == chosen


def test_the_rate_of_an_arm_is_the_best_one_on_validation_data(tmp_path: Path) -> None:
    arms = arms_in(tmp_path)
    for rate, mean in zip(TASK.rates, (0.5, 0.75), strict=True):
        path = arms.cells.path(choice_name(TASK, ALL, RANDOM, rate))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"mean": mean}))
    assert arms.best_rate(TASK, FEW, RANDOM) == arms.best_rate(TASK, ALL, RANDOM) == "2e-3"
    assert arms.best_rate(replace(TASK, is_error=True), ALL, RANDOM) == "1e-3", "an error, of which less is better"
    arms.cells.path(choice_name(TASK, ALL, RANDOM, "2e-3")).write_text('{"mean": null}')
    assert arms.best_rate(TASK, ALL, RANDOM) == "1e-3", "training broke down with the other"
    arms.cells.path(choice_name(TASK, ALL, RANDOM, "1e-3")).write_text('{"mean": null}')
    with pytest.raises(ConfigError, match=r"reviews, random: training broke down with each of the rates 1e-3, 2e-3; add smaller ones"):
        arms.best_rate(TASK, ALL, RANDOM)


def test_random_weights_have_settings_of_their_own() -> None:
    task = replace(TASK, settings=("objective.frozen_steps=9",), from_random=("objective.frozen_steps=0",))
    assert task.sets(ALL, DATA2VEC)[0] == "objective.frozen_steps=9" and task.sets(ALL, RANDOM)[1] == "objective.frozen_steps=0"


def test_data_are_looked_for_before_anything_is_computed(tmp_path: Path) -> None:
    arms = arms_in(tmp_path)
    with pytest.raises(ConfigError, match=r"text-(novels|wikitext2-eval): no such folder"):
        arms.check_data()
    for name in CLOZE:
        (arms.data / name).mkdir()
    arms.check_data()


def test_data_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data/cls-mr: no such folder; --data names the folder that has cls-mr"):
        arms_in(tmp_path).place("cls-mr")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_whole_comparison_is_computed_once(tmp_path: Path) -> None:
    arms = arms_in(tmp_path, NETWORKS[:1])
    stages = (arms.pretraining, arms.choices, arms.finetuning)
    for stage in stages:
        arms.cells.finish(stage())
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "kept" / "cells").iterdir()}
    assert found["pretrain-text_tiny"]["metrics"]["step"] == 2
    for arm in (DATA2VEC, RANDOM):
        cell = found[finetune_name(TASK, ALL, arm)]
        assert 0 <= cell["mean"] <= 1 and cell["split"] == "test" and cell["rate"] == arms.best_rate(TASK, ALL, arm)
        assert len(cell["values"]) == 2, "seeds"
    assert found[finetune_name(TASK, FEW, DATA2VEC)]["baselines"].keys() == BASELINES["text", "classify"].keys()
    assert not list((tmp_path / "out" / "finetune").rglob("prepared")), "nothing large is left"
    encoder = arms.encoder("text_tiny")
    assert sum(path.stat().st_size for path in encoder.rglob("*") if path.is_file()) < 10e6, "small enough to be committed"
    few, whole = list(tables_of(arms)["finetune-text"]())[2:]
    assert few.startswith("| reviews | accuracy | 8 | ") and whole.startswith("| reviews | accuracy | all | ")
    (picture,) = write_curves(tmp_path / "pictures", arms)
    assert picture.name == "labels-text.png" and picture.read_bytes().startswith(b"\x89PNG")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    for stage in stages:
        arms.cells.finish(stage())
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
