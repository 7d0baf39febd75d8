"""When the loop probes: a made-up probe, in runs on two ranks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES
from recipes.check import resolve_recipe
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.train.probe import METRIC, Probe, ProbePlace
from tests.distributed import run_distributed
from tests.launching import ROOT, overrides


class Counting:
    """Stands for a ProbeSource and its probe. The score counts the probes of this launch."""

    def __init__(self) -> None:
        self.num_run, self.place = 0, ()

    def check(self, recipe: Recipe) -> str:
        return ""

    def open(self, recipe: Recipe, place: ProbePlace) -> Probe:
        self.place = (place.world.size, place.parallel.dp_size, place.prepared.name, place.run_dir.name)
        return self

    def run(self, student: Any, beat: Callable[[int], Any]) -> dict[str, float]:
        beat(0)
        self.num_run += 1
        return {METRIC: 0.1 * self.num_run}


def run_rank(run_dir: Path, prepared: Path, settings: Sequence[str]) -> tuple:
    """Train on one of two ranks. Return what the source of the probe was given."""
    from recipes.train import loop

    recipe = resolve_recipe("text_tiny", RECIPES["text"], [*overrides()[1::2], "run.log_steps=100", *settings], str(prepared))
    config, probes = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json"), "test", 2), Counting()
    assert loop.run(recipe, config, run_dir, {}, probes) == 0, "the run ends"
    return probes.place


def rows_of(run_dir: Path) -> dict[int, float | None]:
    """Return the score of each logged step."""
    return {row["step"]: row.get(METRIC) for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())}


def test_a_run_is_probed_at_its_steps_at_the_end_and_before_the_first_update_and_at_the_same_steps_after_a_resume(
    tiny_prepared: Path, tmp_path: Path
) -> None:
    run_dir, settings = tmp_path / "run", ["eval.probe_steps=2", "eval.metric=probe"]
    places = run_distributed(run_rank, 2, run_dir, tiny_prepared, [*settings, "run.max_steps=3"])
    assert places == [(2, 2, tiny_prepared.name, "run")] * 2
    assert rows_of(run_dir) == {1: None, 2: 0.2, 3: 0.1 * 3}
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if "best" in path.name] == ["best"], "a probe may decide what is best"
    run_distributed(run_rank, 2, run_dir, tiny_prepared, [*settings, "run.max_steps=6"])
    assert rows_of(run_dir) == {1: None, 2: 0.2, 3: 0.1 * 3, 4: 0.1, 6: 0.2}
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert [(event["step"], event[METRIC]) for event in events if event["event"] == METRIC] == [(0, 0.1)]


def test_without_probe_steps_nothing_is_opened(tiny_prepared: Path, tmp_path: Path) -> None:
    assert run_distributed(run_rank, 2, tmp_path / "run", tiny_prepared, ["run.max_steps=2"]) == [(), ()]
    assert rows_of(tmp_path / "run") == {1: None, 2: None}
