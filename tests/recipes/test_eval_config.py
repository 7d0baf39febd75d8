"""The defaults of the section `eval` change nothing: no metric is the best one, no run ends early, nothing is probed."""

from recipes.eval_config import EvalConfig
from recipes.text import text_base
from recipes.train.best import BestEvaluation


def test_without_settings_nothing_is_the_best_and_nothing_is_probed() -> None:
    config = EvalConfig()
    assert config == text_base().eval and (config.metric, config.patience, config.probe_steps) == ("", 0, 0)
    best = BestEvaluation()
    assert not best.note(config, {"eval_loss": 1.0}, 5) and not best.is_exhausted(config)
