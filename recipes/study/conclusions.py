"""What a study can and cannot conclude, in sentences made from its numbers. Standard library only."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from recipes.study.fit_lines import FRONTIER, LAW
from recipes.study.log_sample import Row
from recipes.study.results_table import mean_rate, throughput_series
from recipes.study.study_file import Study
from recipes.study.wording import in_number, in_percent, in_words, negative
from recipes.train.probe import METRIC

Content = Mapping[str, Any]


def conclusions(study: Study, rows: Sequence[Row], fit: Content | None) -> tuple[list[str], list[str]]:
    """Return sentences on what can be concluded, and on what cannot. `fit`: the content of fit.json, None if nothing was fitted."""
    can, cannot = list[str](), list[str]()
    counts = Counter(row["state"] for row in rows)
    used = sum(row["state"] == "done" and not row["problem"] for row in rows)
    can.append(f"{used} of {len(rows)} runs have a value of {study.metric}.")
    if used < len(rows):
        missing = ", ".join(f"{count} {state}" for state, count in counts.items() if state != "done")
        cannot.append(
            f"{in_number(len(rows) - used, 'run is', 'runs are')} missing from every statement{f' ({missing})' if missing else ''}."
        )
    can += _beyond_random(study, rows)
    can += _efficiency(study, rows)
    if fit is None:
        cannot.append("Nothing was fitted, so nothing is said about other sizes than these.")
    else:
        can += _from_fit(fit)
        cannot += _not_from_fit(fit)
    if len(study.seeds) < 3:
        few = in_number(len(study.seeds), "seed a cell says", "seeds a cell say")
        cannot.append(f"{few} little about the noise between seeds; read nothing into differences below two standard errors.")
    return can, cannot


def _beyond_random(study: Study, rows: Sequence[Row]) -> Iterator[str]:
    used = [row for row in rows if row["state"] == "done" and not row["problem"]]
    pairs = [(row["metric"], row["random_init"]) for row in used if row["metric"] is not None and row["random_init"]]
    if not pairs or study.metric_key != METRIC:
        return
    better = sum(metric > random for metric, random in pairs)
    gains = [metric / random for metric, random in pairs]
    yield f"{better} of {len(pairs)} runs score above the same network at random initialisation; the mean factor is {mean(gains):.2f}."


def _efficiency(study: Study, rows: Sequence[Row]) -> Iterator[str]:
    """Compare the most ranks with the fewest, in each series that has both."""
    series = throughput_series(study, rows)
    counts = {count for points in series.values() for count in points}
    if len(counts) < 2:
        return
    first, last = min(counts), max(counts)
    factors = [mean_rate(points[last]) / mean_rate(points[first]) for points in series.values() if points.get(first) and points.get(last)]
    if factors:
        share = mean(factors) * first / last
        yield f"{last} ranks train {mean(factors):.2f} times as many tokens a second as {first}: {in_percent(share)} of ideal scaling."


def _from_fit(fit: Content) -> Iterator[str]:
    law = fit["law"] if LAW in fit["supported"] else None
    if law:
        powers = " and ".join(f"{_named(name)} to the power of {in_words(negative(one))}" for name, one in law["exponents"].items())
        end = f"down to {in_words(law['irreducible'])}" if law["has_irreducible"] else "and no irreducible term is seen"
        yield f"The {fit['quantity']} falls with {powers}, {end}."
    if law and fit["held_out"]:
        inside, largest = sum(one["inside"] for one in fit["held_out"]), f"the largest {_named(fit['variables'][0])}"
        level = in_percent(fit["level"])
        yield f"Fitted without them, it predicts {inside} of {len(fit['held_out'])} cells of {largest} within {level} intervals."
    if FRONTIER in fit["supported"]:
        size, tokens = (in_words(fit["isoflop"][f"{variable}_exponent"]) for variable in ("size", "tokens"))
        yield f"The best size for a budget grows with FLOPs to the power of {size}, and the tokens with {tokens}."


def _named(variable: str) -> str:
    return variable.replace("_", " ")


def _not_from_fit(fit: Content) -> Iterator[str]:
    for test in fit["tests"]:
        if not test["passed"]:
            yield f"The data fail the test “{test['name']}”: {test['detail']}. So no {' and no '.join(test['of'])} is claimed."
    for one in fit["held_out"]:
        if not one["inside"]:
            yield f"{one['cell']} was missed: predicted {in_words(one)}, measured {one['measured']:.4g}."
    for one in (fit["isoflop"] or {}).get("minima", []):
        if one["why"]:
            yield f"The best size for {one['flops']:.3g} FLOPs: {one['why']}."
    if fit["law"]:
        yield "Beyond the largest size and budget here, nothing has tested the law."
