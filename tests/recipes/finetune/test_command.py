"""From the flags of a fine-tuning command to its recipe. Whole runs of the command: test_resume.py, test_sources.py, test_start.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.finetune import command
from recipes.finetune.command import Tasks, assigned, task_recipe
from recipes.finetune.sources import Source, SourceFlags, find_source
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from tests.launching import contents, launch
from tests.recipes.finetune.made_up_reviews import FINETUNE

TASKS = Tasks("text", TEXT_TASKS, text_recipe)


def test_without_a_run_dir_it_is_the_one_that_training_takes(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    def find(flags: SourceFlags, network: Callable[[], Recipe]) -> Source:
        places.append(flags.run_dir)
        return find_source(flags, network)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "find_source", find)
    recipe = task_recipe(TASKS, str(tiny_run), "classify", None)
    assert places == [Path("runs/text_classify")] and recipe.name == "text_classify"
    assert recipe.start.start_from == str(tiny_run) and recipe.frontend.max_positions == 32  # type: ignore[attr-defined]


def test_a_task_is_needed_and_there_are_those_of_the_command() -> None:
    for task, complaint in ((None, "--task is missing; there are sst2, "), ("ctc", "--task ctc: unknown; there are sst2, ")):
        with pytest.raises(ConfigError, match=complaint):
            task_recipe(TASKS, "random", task, None)


def test_the_last_assignment_of_a_setting_counts_and_none_is_no_value() -> None:
    sets = ["optim.lr=1", "finetune.tokenizer_from=a", " finetune.tokenizer_from = b "]
    assert assigned(sets, "finetune.tokenizer_from") == "b" and assigned(sets, "run.seed") is None
    assert assigned([*sets, "finetune.tokenizer_from=none"], "finetune.tokenizer_from") is None


def test_help_names_the_sources_and_tasks_and_writes_nothing(tmp_path: Path) -> None:
    done = launch(FINETUNE["text"], ["--help"], tmp_path)
    assert done.returncode == 0 and "--from RUN" in done.stdout and "sst2" in done.stdout and not contents(tmp_path)
