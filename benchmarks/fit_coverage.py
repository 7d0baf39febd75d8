"""How often the intervals of a fitted law contain the truth, and how often data without a law are refused, over made-up studies.

python benchmarks/fit_coverage.py --trials 400 --json
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from recipes.study.fit import Fit, fit_rows
from recipes.study.log_sample import Row
from recipes.study.study_file import Study, read_study

NOISE = 0.01
"""Standard deviation of a run's log error, about that of two seeds of the cloze probe."""
SIZES, BUDGETS, SEEDS = np.geomspace(1e5, 3.2e6, 6), np.geomspace(3e12, 2.4e13, 4), (1, 2)
TOKENS = np.geomspace(2e6, 1.6e7, 4)
IRREDUCIBLE, SIZE_FACTOR, SIZE_EXPONENT, TOKENS_FACTOR, TOKENS_EXPONENT = 0.35, 25.0, 0.35, 250.0, 0.45
FLOPS_PER_SIZE, COST_EXPONENT = 20.0, 0.93
"""A token costs 20 N^0.93 FLOPs: in small networks the attention and the head cost beside the blocks' parameters N."""
Made = tuple[Study, list[Row]]


def error_of(size: float, tokens: float) -> float:
    """Return the error by the true law."""
    return IRREDUCIBLE + SIZE_FACTOR * size**-SIZE_EXPONENT + TOKENS_FACTOR * tokens**-TOKENS_EXPONENT


def study_of(axes: dict[str, list[float]], folder: Path) -> Study:
    """Return a study with these axes, whose runs do not exist."""
    path = folder / "study.json"
    path.write_text(json.dumps({"name": "made_up", "base": "text_tiny", "axes": axes, "seeds": SEEDS, "out": str(folder)}))
    return read_study(path)


def row_of(size: float, tokens: float, error: float, seed: int, flops: float | None = None) -> Row:
    """Return a row of a collected table, with what a fit reads."""
    cell = f"{size:.4g}_{flops or tokens:.4g}"
    done = {"state": "done", "reason": None, "problem": None, "seed": seed, "cell": cell}
    return {**done, "block_parameters": size, "tokens": tokens, "ranks": 1, "metric": 1 - error, "budget_flops": flops}


def known_law(rng: np.random.Generator, folder: Path) -> Made:
    """A law of size and tokens, measured on a grid of both."""
    rows = [
        row_of(size, tokens, error_of(size, tokens) * np.exp(NOISE * rng.standard_normal()), seed)
        for size in SIZES
        for tokens in TOKENS
        for seed in SEEDS
    ]
    return study_of({"model.hidden_size": [64], "tokens": [1e6]}, folder), rows


def known_size_law(rng: np.random.Generator, folder: Path) -> Made:
    """A law of the size alone."""
    rows = [
        row_of(size, 1e7, error_of(size, 1e7) * np.exp(NOISE * rng.standard_normal()), seed)
        for size in np.geomspace(1e5, 1e7, 8)
        for seed in SEEDS
    ]
    return study_of({"model.hidden_size": [64]}, folder), rows


def no_law(rng: np.random.Generator, folder: Path) -> Made:
    """Errors that depend on nothing."""
    rows = [row_of(size, tokens, 0.6 * np.exp(0.05 * rng.standard_normal()), seed) for size in SIZES for tokens in TOKENS for seed in SEEDS]
    return study_of({"model.hidden_size": [64], "tokens": [1e6]}, folder), rows


def isoflop(rng: np.random.Generator, folder: Path, sizes: np.ndarray) -> Made:
    """A parabola for each budget, whose minimum grows with it."""
    rows = []
    for flops in BUDGETS:
        best = 3e5 * (flops / 3e12) ** 0.5
        for size in sizes:
            error = 0.5 * (flops / 3e12) ** -0.1 * np.exp(0.03 * np.log(size / best) ** 2)
            tokens = flops / (FLOPS_PER_SIZE * size**COST_EXPONENT)
            rows += [row_of(size, tokens, error * np.exp(NOISE * rng.standard_normal()), seed, flops) for seed in SEEDS]
    return study_of({"model.hidden_size": [64], "flops": list(BUDGETS)}, folder), rows


def minimum_outside(rng: np.random.Generator, folder: Path) -> Made:
    """Sizes that are all larger than the best one of every budget."""
    return isoflop(rng, folder, np.geomspace(1.2e6, 2e7, 6))


def minimum_inside(rng: np.random.Generator, folder: Path) -> Made:
    """Sizes on both sides of the best one of every budget."""
    return isoflop(rng, folder, np.geomspace(6e4, 4e6, 6))


def outcomes(name: str, fit: Fit) -> Iterator[str]:
    """Yield what holds for one fit."""
    if fit.failed:
        yield "refused"
        yield from (f"refused by {test['name']}" for test in fit.failed)
        return
    if fit.law and name.startswith("known"):
        true = {"block_parameters": SIZE_EXPONENT, "tokens": TOKENS_EXPONENT}
        for variable, exponent in fit.law["exponents"].items():
            if exponent["low"] <= true[variable] <= exponent["high"]:
                yield f"exponent of {variable} inside"
        if fit.held_out[-1]["inside"]:
            yield "held-out largest inside"
    if fit.isoflop and fit.isoflop["size_exponent"]:
        true = {"size": 0.5, "tokens": 1 - 0.5 * COST_EXPONENT}
        for variable, exponent in true.items():
            found = fit.isoflop[f"{variable}_exponent"]
            if found["low"] <= exponent <= found["high"]:
                yield f"frontier exponent of {variable} inside"


CASES: dict[str, Callable[[np.random.Generator, Path], Made]] = {
    "known law of size and tokens": known_law,
    "known law of size": known_size_law,
    "no law": no_law,
    "minimum outside": minimum_outside,
    "minimum inside": minimum_inside,
}


def main() -> None:
    """Run all trials of all cases, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {}
    for name in args.cases:
        rng, counts = np.random.default_rng(args.seed), Counter[str]()
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(args.trials):
                counts.update(outcomes(name, fit_rows(*CASES[name](rng, Path(folder)))))
        found[name] = dict(counts)
        print(json.dumps({name: found[name]}) if args.json else f"{name}: {dict(counts)} of {args.trials}", flush=True)


if __name__ == "__main__":
    main()
