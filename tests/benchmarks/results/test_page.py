"""The tables of the page: made from finished cells, between marks, and empty where nothing is finished."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from results.arms import Arms, finetune_name
from results.cells import Cells
from results.page import difference, tables_of, with_error, write_page
from results.tasks import CONTROL, DATA2VEC, RANDOM, TASKS


@pytest.fixture
def arms(tmp_path: Path) -> Arms:
    """Nothing is finished."""
    return Arms(Cells(tmp_path / "out", tmp_path / "kept", jobs=1), tmp_path, tmp_path / "config.json")


def finish(arms: Arms, name: str, **result: Any) -> None:
    path = arms.cells.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cell": name, "seconds": 60.0, **result}))


def test_a_table_has_the_arms_their_difference_and_the_baseline_that_is_best_on_validation_data(arms: Arms) -> None:
    task = TASKS[0]
    budget = task.budgets[-1]
    simple = {"naive Bayes": {"mean": 0.9, "validation": 0.5}, "TF-IDF": {"mean": 0.77, "validation": 0.8}}
    for arm, mean, more in ((DATA2VEC, 0.8, {"baselines": simple}), (CONTROL, 0.79, {}), (RANDOM, 0.7, {})):
        finish(arms, finetune_name(task, budget, arm), mean=mean, standard_error=0.03, **more)
    lines = list(tables_of(arms)[f"finetune-{task.modality}"]())
    assert lines[2:] == [f"| {task.data} | accuracy | all | .800 +- .030 | .790 +- .030 | .700 +- .030 | +0.100, 2.4 s.e. | .770 |"]
    assert list(tables_of(arms)["finetune-speech"]())[2:] == []


def test_a_metric_of_which_less_is_better_is_named_so(arms: Arms) -> None:
    (task,) = [one for one in TASKS if one.is_error]
    for arm, mean in ((DATA2VEC, 0.6), (RANDOM, 1.0)):
        finish(arms, finetune_name(task, task.budgets[0], arm), mean=mean, standard_error=0.0)
    (line,) = list(tables_of(arms)["finetune-speech"]())[2:]
    assert line == "| speech-ocean762 | cer, smaller is better | all | .600 +- .000 |  | 1.000 +- .000 | -0.400 |  |"


def test_the_cloze_table_has_the_ratio(arms: Arms) -> None:
    values = {"mean": 0.3, "standard_error": 0.01, "random_init": 0.1, "random_init_error": 0.005, "majority": 0.08, "num_test": 5097}
    finish(arms, "probe-text-wikitext2-eval-text_small", **values)
    (line,) = list(tables_of(arms)["cloze"]())[2:]
    assert line == "| text-wikitext2-eval | text_small | .300 +- .010 | .100 +- .005 | 3.00 | .080 | 5,097 |"


def test_tables_are_written_between_their_marks_and_nothing_else_changes(arms: Arms, tmp_path: Path) -> None:
    finish(arms, "pretrain-text_small", metrics={"step": 1000, "samples": 16000}, seconds=600)
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- table: cost -->\nold\n<!-- end -->\n\nText.\n")
    write_page(page, page, arms)
    written = page.read_text()
    assert written.startswith("# Page\n\n<!-- table: cost -->\n| recipe |") and written.endswith("<!-- end -->\n\nText.\n")
    assert "| text_small | 1,000 | 16,000 | 10 |" in written and "old" not in written
    write_page(page, tmp_path / "copy.md", arms)
    assert (tmp_path / "copy.md").read_text() == page.read_text() == written


def test_an_unknown_table_is_an_error(arms: Arms, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- table: costs -->\n<!-- end -->\n")
    with pytest.raises(ConfigError, match="table costs: unknown; there are cost, cloze, probe-text"):
        write_page(page, page, arms)


def test_missing_cells_are_empty() -> None:
    broken = {"mean": None, "standard_error": None}
    assert with_error(broken) == difference({"mean": 1.0, "standard_error": 0.1}, broken) == ""
    assert with_error(None) == difference(None, {"mean": 1.0, "standard_error": 0.1}) == ""
    assert with_error({"mean": 0.5, "standard_error": None}) == ".500"
    assert difference({"mean": 0.5, "standard_error": 0}, {"mean": 0.25, "standard_error": 0}) == "+0.250"
