"""Time, memory and page size of collect and report for a study of many made-up runs with long logs.

python benchmarks/study_size.py --runs 1000 --rows 10000 --folder /tmp/large
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from recipes.settings import recipe_to_dict
from recipes.study.collect import collect, read_curves, read_table
from recipes.study.command import open_study
from recipes.study.progress import progress_of
from recipes.study.report import write_report
from recipes.study.run_folder import Run, write_records

SEEDS, SIZES, BUDGETS = 10, 10, 10
"""Of 1,000 runs."""
PROBES = 8


def made_up_log(rows: int, rng: np.random.Generator) -> list[str]:
    """Return the lines of a metrics.jsonl with the keys of a real one."""
    losses = 5 * np.arange(1, rows + 1) ** -0.1 + 0.01 * rng.standard_normal(rows)
    lines = []
    for number in range(rows):
        row = {
            **{"step": 10 * (number + 1), "loss": float(losses[number]), "target_std": 0.98123456789, "pred_std": 0.51234567891},
            **{"masked_fraction": 0.29987654321, "grad_norm": 0.8123456789, "lr": 0.0001987654321, "ema_decay": 0.9991234567},
            **{"samples": 160 * (number + 1), "tokens": 20480 * (number + 1), "data_wait_seconds": 1.23456e-05, "skipped_steps": 0},
            **{"world_size": 8, "tp_size": 1, "peak_memory_bytes": 812345678, "step_seconds": 0.0412345678 + 1e-4 * number / rows},
            **{"tokens_per_second": 49700.123456789, "mfu": 0.312345678901},
        }
        if (number + 1) % (rows // PROBES) == 0:
            row |= {"eval_loss": float(losses[number]) + 0.1, "explained_variance": 0.41, "target_rank": 40.2, "probe": 0.1}
        lines.append(json.dumps(row) + "\n")
    return lines


def write_run(run: Run, lines: list[str], score: float) -> None:
    """Write the files of a finished run, whose last probe has this score."""
    run.path.mkdir(parents=True, exist_ok=True)
    last = json.loads(lines[-1]) | {"probe": score}
    (run.path / "metrics.jsonl").write_text("".join(lines[:-1]) + json.dumps(last) + "\n")
    events = [
        {"time": 1.7e9, "event": "start", "step": 0, "setup_seconds": 9.0, "world_size": 8, "tp_size": 1},
        {"time": 1.7e9, "event": "probe", "step": 0, "probe": 0.07},
        {"time": 1.7e9 + 4500, "event": "stop", "step": last["step"], "reason": "done"},
    ]
    (run.path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    config = {"recipe": recipe_to_dict(run.cell.recipe) | {"run": recipe_to_dict(run.cell.recipe)["run"] | {"seed": run.seed}}}
    (run.path / "config.json").write_text(json.dumps(config))


def make_study(folder: Path, num_runs: int, rows: int) -> Path:
    """Write a study and all of its runs, and return the path of the study file."""
    rng = np.random.default_rng(0)
    sizes = [32 * (number + 1) for number in range(max(1, num_runs // (SEEDS * BUDGETS)))]
    content = {
        **{"name": "large", "base": "text_tiny", "out": str(folder / "out"), "metric": "probe.cloze", "seeds": list(range(SEEDS))},
        **{"axes": {"model.hidden_size": sizes, "tokens": np.geomspace(1e6, 1e8, BUDGETS).round().tolist()}},
    }
    path = folder / "study.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    study, cells, runs = open_study(path)
    write_records(study, cells)
    lines = made_up_log(rows, rng)
    for run in runs:
        size, tokens = run.cell.recipe.model.hidden_size, run.cell.tokens
        error = 0.4 + 1.5 * size**-0.5 + 30 * tokens**-0.4
        write_run(run, lines, 1 - error * float(np.exp(0.01 * rng.standard_normal())))
    return path


def main() -> None:
    """Make the study, collect and report it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    path = args.folder / "study.json"
    if not path.exists():
        make_study(args.folder, args.runs, args.rows)
    begin = time.perf_counter()
    study, cells, runs = open_study(path)
    collect(study, progress_of(study, runs), lambda line: None)
    middle = time.perf_counter()
    page = write_report(study, cells, read_table(study), read_curves(study))
    end = time.perf_counter()
    found = {
        "runs": len(runs),
        "log_gigabytes": round(sum((run.path / "metrics.jsonl").stat().st_size for run in runs) / 1e9, 2),
        "collect_seconds": round(middle - begin, 2),
        "report_seconds": round(end - middle, 2),
        "peak_memory_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
        "page_megabytes": round(page.stat().st_size / 1e6, 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
