"""Which evaluation of a run was the best, and whether the run ends because none was better for a while. The recipe's section `eval` names
the metric. Torch-free."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.train.probe import METRIC

STORED = ("value", "step", "num_since")


@dataclass
class BestEvaluation:
    """The best evaluation so far of which there is a checkpoint, or of which one is being written. Checkpoints store it, so a run that
    continues goes on with it."""

    value: float | None = None
    """The metric's value. None: there is no evaluation yet, or none with a number."""
    step: int = 0
    """Updates that were applied when it was reached."""
    num_since: int = 0
    """Evaluations since then."""
    before: Optional["BestEvaluation"] = None
    """The best one before, until the checkpoint of this one is written. None: there is nothing to go back to."""
    is_lost: bool = False
    """True: the checkpoint could not be written, and is not yet written again."""

    @staticmethod
    def of(metadata: Mapping[str, Any]) -> "BestEvaluation":
        """Return what a checkpoint's metadata have stored; a new one if they have nothing."""
        return BestEvaluation(**metadata.get("best", {}))

    def note(self, config: EvalConfig, metrics: Mapping[str, Any], step: int) -> bool:
        """Take the metrics of an evaluation. Return True if it is the best so far. NaN is never the best. Without eval.metric, and at an
        evaluation without a probe if that is the metric, return False.

        Raises: ConfigError if the evaluation does not measure eval.metric, since then no checkpoint would be kept and no run end early.
        """
        value = metrics.get(config.metric) if config.metric else None
        if value is None:
            _check_measured(config, metrics)
            return False
        self._go_back_if_lost(step)
        sign = 1 if config.goal == "max" else -1
        is_best = not math.isnan(value) and (self.value is None or sign * value > sign * self.value)
        if is_best:
            self.before = replace(self)
            self.value, self.step, self.num_since = value, step, 0
        else:
            self.num_since += 1
        return is_best

    def is_exhausted(self, config: EvalConfig) -> bool:
        """True if eval.patience evaluations were not better than the best one."""
        return bool(config.metric and config.patience and self.num_since >= config.patience)

    def saved(self, step: int, *, is_written: bool) -> None:
        """Take the outcome of a save of the weights after `step` updates. If it failed and these are the best ones, the best evaluation
        before counts again, unless the same weights are written after all."""
        if self.before is None:
            return
        if step == self.step:
            self.is_lost, self.before = not is_written, None if is_written else self.before
        else:  # that of an earlier best one, whose save was still running
            self.before.saved(step, is_written=is_written)
            self.before._go_back_if_lost(self.step)

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint of the weights after `step` updates stores: {"best": ...}; {} if there is no evaluation yet."""
        self._go_back_if_lost(step)
        there = self.value is not None or self.num_since
        return {"best": {name: getattr(self, name) for name in STORED}} if there else {}

    def _go_back_if_lost(self, step: int) -> None:
        """If the weights of the best evaluation could not be written, and training has gone on to `step`, go back to the one before."""
        if not self.is_lost or self.before is None or step == self.step:
            return
        self.value, self.step = self.before.value, self.before.step
        self.num_since, self.before, self.is_lost = self.before.num_since + 1 + self.num_since, None, False


def _check_measured(config: EvalConfig, metrics: Mapping[str, Any]) -> None:
    is_probe = config.metric == METRIC and config.probe_steps
    if config.metric and config.metric not in metrics and not is_probe:
        raise ConfigError(f"eval.metric {config.metric} is not measured; there are {', '.join(metrics)}; --set eval.metric=NAME names one")
