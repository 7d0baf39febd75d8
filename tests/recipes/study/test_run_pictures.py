"""Pictures of the runs: which ones a study has data for, and what they show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot

from fit_coverage import row_of
from recipes.study.figure_style import ON_WHITE, Chart
from recipes.study.log_sample import Row
from recipes.study.planned import MEASURE, MEMORY, STEP
from recipes.study.run_pictures import MOST_CURVES, MOST_VALUES, run_pictures, standard_error
from recipes.study.study_file import read_study
from tests.made_up_study import made_up_study

COSTS = {"tokens_per_second": None, "step_seconds": None, "peak_memory_bytes": None, "batch": 8, STEP: None, MEMORY: None, MEASURE: False}


def row(cell: str, seed: int = 1, **changes: Any) -> Row:
    """Return a row of the table without costs, with these values. Axes are named with __ instead of the dot: axis__ranks."""
    return row_of(1e5, 1e6, 0.5, seed) | {"axis.flops": None, **COSTS, "cell": cell} | {k.replace("__", "."): v for k, v in changes.items()}


def pictures(folder: Path, axes: dict[str, list[Any]], rows: Sequence[Row], curves: Sequence[Row] = (), **keys: Any) -> dict[str, Chart]:
    """Return the pictures of a study with these axes and rows, by name."""
    return {one.name: one for one in run_pictures(read_study(made_up_study(folder, axes=axes, **keys)), rows, curves)}


def drawn(chart: Chart) -> Any:
    """Return the axes on which a picture was drawn."""
    figure, axes = pyplot.subplots()
    chart.draw(axes, ON_WHITE)
    figure.canvas.draw()
    pyplot.close(figure)
    return axes


def legend_of(axes: Any) -> list[str]:
    """Return the texts of the legend."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


def curve(cell: str, seed: int, **values: Any) -> list[Row]:
    """Return two rows of a curve."""
    return [
        {"cell": cell, "seed": seed, "step": tokens // 10, "tokens": tokens, "loss": 2.0 / tokens, "probe": None, **values}
        for tokens in (10, 20)
    ]


def test_a_study_without_data_has_no_pictures(tmp_path: Path) -> None:
    assert pictures(tmp_path, {"optim.lr": [0.1, 0.2]}, [row("a", state="queued", metric=None, axis__lr=0.1)]) == {}
    assert pictures(tmp_path, {"optim.lr": [0.1, 0.2]}, []) == {}


def test_curves_are_means_over_seeds_and_losses_carry_a_warning(tmp_path: Path) -> None:
    rows = [row(cell, seed, axis__lr=cell) for cell in ("a", "b") for seed in (1, 2)]
    curves = [*curve("a", 1), *curve("a", 2, loss=1.0), *curve("b", 1)]
    found = pictures(tmp_path, {"optim.lr": [0.1, 0.2]}, rows, curves)["curves"]
    assert found.title == "loss during training" and "not comparable" in found.caption
    axes = drawn(found)
    assert len(axes.lines) == 2 and axes.lines[0].get_ydata().tolist() == pytest.approx([0.6, 0.55])
    assert legend_of(axes) == ["a", "b"]


def test_curves_of_the_probe_are_taken_if_there_are_any(tmp_path: Path) -> None:
    curves = [*curve("a", 1, probe=0.3), *curve("b", 1)]
    found = pictures(tmp_path, {"optim.lr": [0.1]}, [row("a", axis__lr=0.1)], curves)["curves"]
    assert found.title == "probe during training" and "comparable" not in found.caption and len(drawn(found).lines) == 1


def test_many_cells_show_a_part_of_the_curves_and_the_caption_says_which_part(tmp_path: Path) -> None:
    rows = [row(f"c{number}", axis__lr=number) for number in range(100)]
    curves = [one for number in range(100) for one in curve(f"c{number}", 1)]
    found = pictures(tmp_path, {"optim.lr": [0.1]}, rows, curves)["curves"]
    axes = drawn(found)
    assert len(axes.lines) == 34 <= MOST_CURVES and "34 of 100 cells" in found.caption and axes.get_legend() is None


def test_large_numbers_of_a_legend_are_short(tmp_path: Path) -> None:
    rows = [row(cell, axis__flops=flops) for cell, flops in (("a", 3e12), ("b", 1.2e13))]
    found = pictures(tmp_path, {"flops": [3e12, 1.2e13]}, rows, [*curve("a", 1), *curve("b", 1)])["curves"]
    assert legend_of(drawn(found)) == ["3e+12", "1.2e+13"]


def test_throughput_over_ranks_has_the_means_and_the_ideal_line(tmp_path: Path) -> None:
    rows = [
        row(f"r{ranks}", seed, ranks=ranks, axis__ranks=ranks, tokens_per_second=1000.0 * ranks**0.9 * (1 + 0.02 * seed))
        for ranks in (1, 2, 4)
        for seed in (1, -1)
    ]
    found = pictures(tmp_path, {"ranks": [1, 2, 4]}, rows, metric="tokens_per_second")
    assert list(found) == ["throughput"] and found["throughput"].title.startswith("Strong")
    assert "same for all" in found["throughput"].caption
    measured, ideal = drawn(found["throughput"]).lines
    assert measured.get_ydata() == pytest.approx([1000.0, 1000 * 2**0.9, 1000 * 4**0.9])
    assert ideal.get_ydata() == pytest.approx([1000, 2000, 4000])


def test_a_batch_that_grows_with_the_ranks_is_weak_scaling(tmp_path: Path) -> None:
    rows = [row(str(ranks), ranks=ranks, axis__ranks=ranks, batch=8 * ranks, tokens_per_second=900.0 * ranks) for ranks in (1, 2)]
    found = pictures(tmp_path, {"ranks": [1, 2]}, rows)["throughput"]
    assert found.title.startswith("Weak") and "grows with the ranks" in found.caption


def test_an_axis_whose_objects_set_the_ranks_is_one_series(tmp_path: Path) -> None:
    """The shipped text_weak_scaling has the axis "scale", whose values name ranks and batch together."""
    scale = [{"name": f"{ranks} ranks", "ranks": ranks, "run.global_batch_size": 8 * ranks} for ranks in (1, 2, 4)]
    rows = [row(one["name"], ranks=one["ranks"], axis__scale=one["name"], batch=8 * one["ranks"], tokens_per_second=900.0) for one in scale]
    found = pictures(tmp_path, {"scale": scale}, rows)["throughput"]
    assert found.title.startswith("Weak")
    assert drawn(found).lines[0].get_xdata().tolist() == [1, 2, 4]


def test_other_axes_make_a_series_each(tmp_path: Path) -> None:
    rows = [
        row(f"{name}{ranks}", ranks=ranks, axis__ranks=ranks, axis__deepspeed_config=name, tokens_per_second=900.0 * ranks)
        for name in ("zero3", "node")
        for ranks in (1, 2)
    ]
    axes = drawn(pictures(tmp_path, {"ranks": [1, 2]}, rows)["throughput"])
    assert legend_of(axes) == ["deepspeed_config zero3", "ideal", "deepspeed_config node"]


def test_throughput_in_less_than_a_decade_has_labels(tmp_path: Path) -> None:
    rows = [row(str(ranks), ranks=ranks, axis__ranks=ranks, tokens_per_second=21000.0 * ranks) for ranks in (1, 2, 4)]
    axes = drawn(pictures(tmp_path, {"ranks": [1, 2, 4]}, rows)["throughput"])
    low, high = axes.get_ylim()
    assert sum(low <= label.get_position()[1] <= high and bool(label.get_text()) for label in axes.get_yticklabels()) >= 2


def test_one_number_of_ranks_or_failed_runs_make_no_throughput(tmp_path: Path) -> None:
    rows = [row("a", ranks=1, tokens_per_second=900.0), row("b", ranks=2, tokens_per_second=900.0, state="failed")]
    assert "throughput" not in pictures(tmp_path, {"ranks": [1, 2]}, rows)


def test_plans_are_compared_without_the_measure(tmp_path: Path) -> None:
    """Runs of one plan count by their median, those with the plan of a measure not at all."""
    measured = [(2, 0.7), (2, 1.0), (2, 1.1), (4, 1.0), (50, 1.5), (50, 9.0)]
    rows = [
        row(str(n), seed, step_seconds=seconds, peak_memory_bytes=100, **{STEP: 1 + n / 100, MEMORY: 100 + n, MEASURE: seconds == 1.5})
        for seed, (n, seconds) in enumerate(measured)
    ]
    found = pictures(tmp_path, {"optim.lr": [0.1]}, rows)["plan"]
    assert "The plan differs: an update's time by 3.0 % in the median of 2 and 4.0 % at most, memory by 4.0 %" in found.caption
    runs, measure, _ = drawn(found).lines
    assert len(runs.get_xdata()) == 5 and measure.get_xdata() == [1.5]


def test_only_measures_make_no_difference(tmp_path: Path) -> None:
    rows = [row(str(n), step_seconds=float(n), **{STEP: float(n), MEASURE: True}) for n in (1, 2)]
    found = pictures(tmp_path, {"optim.lr": [0.1]}, rows)["plan"]
    assert found.caption.startswith("Only the measures are done. Band: 10 %.")


def test_curves_of_seeds_with_other_numbers_of_tokens_are_one_mean(tmp_path: Path) -> None:
    """Packing leaves padding, and its share depends on the order of the samples."""
    curves = [
        {"cell": "a", "seed": seed, "step": step, "tokens": 100 * step + seed, "loss": float(seed)} for seed in (1, 2) for step in (1, 2)
    ]
    axes = drawn(pictures(tmp_path, {"optim.lr": [0.1]}, [row("a", axis__lr=0.1)], curves)["curves"])
    assert axes.lines[0].get_xdata().tolist() == [101.5, 201.5] and axes.lines[0].get_ydata().tolist() == [1.5, 1.5]


def test_an_ablation_shows_means_and_standard_errors_of_each_value(tmp_path: Path) -> None:
    scores = {"base": (0.5, 0.7), "no": (0.2, 0.4)}
    rows = [row(name, seed, axis__change=name, metric=own[seed]) for name, own in scores.items() for seed in (0, 1)]
    rows.append(row("lost", state="failed", axis__change="lost"))
    found = pictures(tmp_path, {"change": [{"name": "base"}, {"name": "no", "optim.lr": 0.1}]}, rows, metric="probe.cloze")
    assert list(found) == ["ablation_change"] and found["ablation_change"].title == "probe.cloze by change"
    axes = drawn(found["ablation_change"])
    means = axes.containers[0].lines[0].get_ydata()
    assert means == pytest.approx([0.6, 0.3]) and [one.get_text() for one in axes.get_xticklabels()] == ["base", "no"]


@pytest.mark.parametrize("axis", ["model.hidden_size", "model.num_layers", "flops", "tokens", "ranks", "run.max_steps"])
def test_an_axis_of_size_budget_or_ranks_is_no_ablation(tmp_path: Path, axis: str) -> None:
    short = axis.rpartition(".")[2]
    rows = [row(str(value), **{f"axis.{short}": value}) for value in (16, 32)]
    assert pictures(tmp_path, {axis: [16, 32]}, rows) == {}


@pytest.mark.parametrize("axis", ["optim.lr", "mask.prob", "model.hidden_dropout", "model.activation_dropout"])
def test_an_axis_of_anything_else_is_an_ablation(tmp_path: Path, axis: str) -> None:
    short = axis.rpartition(".")[2]
    rows = [row(str(value), **{f"axis.{short}": value}) for value in (0.1, 0.2)]
    assert list(pictures(tmp_path, {axis: [0.1, 0.2]}, rows)) == [f"ablation_{short}"]


def test_one_value_or_too_many_make_no_ablation(tmp_path: Path) -> None:
    for count, expected in ((1, 0), (2, 1), (MOST_VALUES, 1), (MOST_VALUES + 1, 0)):
        rows = [row(str(number), axis__lr=0.1 * number) for number in range(count)]
        assert len(pictures(tmp_path, {"optim.lr": [0.1]}, rows)) == expected


def test_the_standard_error_is_that_of_the_mean() -> None:
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0) and standard_error([1.0]) is None
