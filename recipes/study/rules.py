"""Rules by which numbers of a cell follow from its sizes and its budget. Each has a name, can be switched off, and leaves alone what the
study file sets itself. Torch-free.

A rule compares the cell with the study's base recipe, so that the base itself is unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recipes.config import Recipe
from recipes.settings import with_values

Values = dict[str, Any]
"""Dotted name of a setting -> its value."""
ROWS, SAVES = 40, 4
"""Rows of metrics.jsonl, and checkpoints, that a run of a study has at least."""
BATCH_STEP = 8
"""A derived batch is a multiple of this, so that it divides among ranks and micro-batches."""


class Situation(NamedTuple):
    """What a rule sees: the cell so far, the recipe that the study changes, and the rule's exponent."""

    cell: Recipe
    base: Recipe
    exponent: float


@dataclass(frozen=True)
class ScalingRule:
    """A rule: a sentence for the report, and the settings that follow. `exponent`: its default, None if it has none."""

    sentence: str
    values: Callable[[Situation], Values]
    exponent: float | None = None
    is_default: bool = True
    main: str = ""
    """The setting without which the others of the rule make no sense: if the study sets it, the rule changes nothing."""


def _heads(at: Situation) -> Values:
    size = at.base.model.hidden_size // at.base.model.num_attention_heads
    most = max(1, round(at.cell.model.hidden_size / size))
    return {"model.num_attention_heads": next(heads for heads in range(most, 0, -1) if at.cell.model.hidden_size % heads == 0)}


def _feed_forward(at: Situation) -> Values:
    return {"model.ffn_hidden_size": round(at.cell.model.hidden_size * at.base.model.ffn_hidden_size / at.base.model.hidden_size)}


def _top_layers(at: Situation) -> Values:
    share = at.base.teacher.average_top_k_layers / at.base.model.num_layers
    return {"teacher.average_top_k_layers": max(1, round(share * at.cell.model.num_layers))}


def _learning_rate(at: Situation) -> Values:
    width = at.base.model.hidden_size / at.cell.model.hidden_size
    return {"optim.lr": _rounded(at.cell.optim.lr * width**at.exponent)}


def _learning_rate_batch(at: Situation) -> Values:
    batch = at.cell.run.global_batch_size / at.base.run.global_batch_size
    return {"optim.lr": _rounded(at.cell.optim.lr * batch**at.exponent)}


def _batch(at: Situation) -> Values:
    """The run keeps its samples, and so its cost, unless the study file sets run.max_steps."""
    samples, base = at.cell.run.max_steps * at.cell.run.global_batch_size, at.base.run
    size = at.cell.run.global_batch_size * (samples / (base.max_steps * base.global_batch_size)) ** at.exponent
    size = max(1, round(size / BATCH_STEP)) * BATCH_STEP
    return {"run.global_batch_size": size, "run.max_steps": max(1, round(samples / size))}


def _schedule(at: Situation) -> Values:
    return {"optim.schedule_steps": at.cell.run.max_steps}


def _warmup(at: Situation) -> Values:
    base, steps = at.base.optim, at.cell.optim.schedule_steps
    return {
        "optim.warmup_steps": round(steps * base.warmup_steps / base.schedule_steps),
        "optim.decay_steps": int(steps * base.decay_steps / base.schedule_steps),
    }


def _ema_anneal(at: Situation) -> Values:
    share = at.base.teacher.ema_anneal_end_step / at.base.run.max_steps
    return {"teacher.ema_anneal_end_step": round(share * at.cell.run.max_steps)}


def _intervals(at: Situation) -> Values:
    steps = at.cell.run.max_steps
    return {
        "run.log_steps": max(1, steps // ROWS),
        "run.save_steps": max(1, -(-steps // SAVES)),
        "run.eval_steps": steps,
    }


RULES: Mapping[str, ScalingRule] = {
    "head_size": ScalingRule("attention heads have the base's channels per head, as nearly as they divide the width", _heads),
    "ffn_ratio": ScalingRule("the feed-forward layer keeps its ratio to the width", _feed_forward),
    "top_layers": ScalingRule("K (layers averaged to a target) keeps its share of the depth", _top_layers),
    "batch": ScalingRule(
        "the global batch scales with (tokens of the run / those of the base)^x, x = 0.5: the critical batch grows with the data "
        "(arXiv 2410.21676)",
        _batch,
        exponent=0.5,
        is_default=False,
        main="run.global_batch_size",
    ),
    "lr_width": ScalingRule(
        "the learning rate scales with (base width / width)^x: x = 0 is constant, x = 1 is muP's for hidden matrices under Adam "
        "(arXiv 2203.03466, table 3)",
        _learning_rate,
        exponent=0.5,
    ),
    "lr_batch": ScalingRule(
        "the learning rate scales with (batch / base batch)^x, x = 0.5 for Adam (arXiv 2205.10287)", _learning_rate_batch, exponent=0.5
    ),
    "schedule": ScalingRule("the schedule ends with the run", _schedule),
    "warmup": ScalingRule("warm-up and decay keep their shares of the schedule", _warmup),
    "ema_anneal": ScalingRule("the EMA's anneal (tau_n) keeps its share of the run", _ema_anneal),
    "intervals": ScalingRule(f"{ROWS} rows, {SAVES} checkpoints and one evaluation a run", _intervals),
}
"""In the order in which they apply."""
SIZE_RULES = ("head_size", "ffn_ratio", "top_layers")
"""Rules that apply before the length of a run follows from its budget."""
BY_DEFAULT: Mapping[str, float | None] = {name: rule.exponent for name, rule in RULES.items() if rule.is_default}
"""Rules that are on unless the study file says otherwise -> their exponent."""


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def apply_rules(cell: Recipe, base: Recipe, rules: Mapping[str, float | None], given: Sequence[str]) -> tuple[Recipe, dict[str, list[str]]]:
    """Return the cell's recipe with all numbers that follow by the `rules`, and dotted name -> rules for those that differ from before.
    `given`: settings that the study file sets, which no rule changes."""
    derived: dict[str, list[str]] = {}
    for name, exponent in rules.items():
        rule = RULES[name]
        if rule.main in given:
            continue
        found = rule.values(Situation(cell, base, exponent or 0.0))
        values = {key: value for key, value in found.items() if key not in given and value != _value(cell, key)}
        cell = with_values(cell, values)
        for key in values:
            derived.setdefault(key, []).append(name)
    return cell, derived


def _value(recipe: Recipe, name: str) -> Any:
    found: Any = recipe
    for part in name.split("."):
        found = getattr(found, part)
    return found
