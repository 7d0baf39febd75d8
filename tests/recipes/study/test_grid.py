"""The lines of the verb grid."""

from pathlib import Path
from typing import Any

from recipes.study.command import open_study
from recipes.study.grid import grid_lines, rule_lines
from recipes.study.progress import progress_of
from recipes.study.rules import RULES
from recipes.study.study_file import read_study
from tests.made_up_study import made_up_run, made_up_study


def lines_of(folder: Path, **keys: Any) -> list[str]:
    study, cells, runs = open_study(made_up_study(folder, **keys))
    return list(grid_lines(study, cells, progress_of(study, runs)))


def test_every_cell_has_a_row_with_its_numbers(tmp_path: Path) -> None:
    lines = lines_of(tmp_path)
    assert lines[0] == f"study made_up: 4 cells x 2 seeds of text_tiny, metric probe, in {tmp_path / 'out'}"
    assert lines[1].split() == ["cell", "parameters", "FLOPs", "updates", "batch", "lr", "update", "run", "memory", "runs"]
    row = lines[2].split()
    assert row[:1] + row[3:6] == ["hidden_size-32_max_steps-20", "20", "16", "0.004"] and lines[2].endswith("2 queued")
    assert [line.split()[0] for line in lines[2:6]] == [f"hidden_size-{h}_max_steps-{s}" for h in (32, 64) for s in (20, 40)]
    assert lines[-1] == "8 runs: 8 queued" and lines[-2].startswith("together ")
    assert len({len(line) for line in lines[1:6]}) == 1


def test_the_flops_together_are_those_of_all_seeds(tmp_path: Path) -> None:
    (together,) = (line for line in lines_of(tmp_path, axes={"flops": [1e12, 3e12]}, seeds=[1, 2, 3]) if line.startswith("together"))
    assert together.startswith("together 1.2e+13 FLOPs, ")


def test_the_states_of_a_cells_runs_are_counted(tmp_path: Path) -> None:
    study, cells, runs = open_study(made_up_study(tmp_path))
    made_up_run(runs[0], score=0.3)
    lines = list(grid_lines(study, cells, progress_of(study, runs)))
    assert lines[2].endswith("1 done, 1 queued") and lines[3].endswith("2 queued") and lines[-1] == "8 runs: 7 queued, 1 done"


def test_a_refused_cell_has_its_reason_and_no_row(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, axes={"tokens": [1, 1e6]})
    assert [line for line in lines if line.startswith("tokens-1 ")] == [] and len(
        [line for line in lines if line.startswith("tokens-1e06 ")]
    ) == 1
    assert any(line.startswith("tokens-1: left out, 1 tokens pay for 0.0 updates") for line in lines)


def test_every_rule_has_a_line_on_or_off(tmp_path: Path) -> None:
    study = read_study(made_up_study(tmp_path, rules={"lr_width": 0.25, "schedule": False}))
    lines = list(rule_lines(study, []))
    assert [line.split()[1] for line in lines] == list(RULES)
    for start in (
        "rule head_size (on): ",
        "rule batch (off): ",
        "rule lr_width (x = 0.25): ",
        "rule schedule (off): ",
        "rule lr_batch (x = 0.5): ",
    ):
        assert sum(line.startswith(start) for line in lines) == 1
    assert all("(off)" in line for line in rule_lines(read_study(made_up_study(tmp_path, rules=[])), []))
