"""Which configuration --recipe means in a fine-tuning command, and that random networks are trained whole."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.finetune import sources
from recipes.finetune.command import Tasks, task_recipe
from recipes.finetune.speech_tasks import PUBLISHED, SPEECH_TASKS, speech_recipe
from recipes.speech import speech_base

TASKS = Tasks("speech", SPEECH_TASKS, speech_recipe, PUBLISHED)


@pytest.fixture(autouse=True)
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A folder that is taken for a run of speech_base, as every --from RUN."""
    monkeypatch.setattr(sources, "find_stored_run", lambda path: SimpleNamespace(recipe=speech_base()))
    return str(tmp_path)


def test_a_published_configuration_replaces_the_settings_of_the_task(run: str) -> None:
    own: Any = task_recipe(TASKS, run, "ctc", None)
    published: Any = task_recipe(TASKS, run, "ctc", "vox_1h")
    assert (own.name, published.name) == ("speech_ctc", "speech_ctc_vox_1h")
    assert (own.finetune.epochs, published.finetune.epochs, published.run.max_steps) == (20.0, 0.0, 13_000)
    assert own.start.start_from == published.start.start_from == run and published.finetune.task == "ctc"


@pytest.mark.parametrize(
    ("task", "name", "complaint"),
    [
        ("classify", "base_10h", r"--recipe base_10h: --from names the network already, .*; --task classify has none"),
        ("ctc", "speech_base", r"--recipe speech_base: .* the published configurations of --task ctc are base_10m, base_1h"),
    ],
)
def test_another_recipe_beside_a_run_is_refused(run: str, task: str, name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        task_recipe(TASKS, run, task, name)


def test_with_random_weights_the_recipe_is_the_network_and_nothing_is_frozen(run: str) -> None:
    recipe: Any = task_recipe(TASKS, "random", "ctc", "speech_base")
    assert recipe.model.hidden_size == 768 and recipe.start.start_from is None
    assert (recipe.objective.frozen, recipe.objective.frozen_steps) == ("nothing", 0)
    pretrained: Any = task_recipe(TASKS, run, "ctc", None)
    assert pretrained.objective.frozen == "features"
