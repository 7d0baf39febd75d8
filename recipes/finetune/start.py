"""One start of a fine-tuning command: training, then the scores, for one seed or for several. Torch-free until training starts. What a
run of several seeds leaves is in seeds.py."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recipes.check import changed_recipe
from recipes.cluster.environment import is_first_rank, quiet_libraries
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.finetune.seeds import (
    array_task,
    check_layout,
    python_command,
    report_seeds,
    run_seeds,
    seed_folder,
    seed_settings,
    share_prepared,
)
from recipes.train.cli import train_command

EXIT_DONE = 0


@dataclass(frozen=True)
class Start:
    """The flags of one start, arguments that the parser does not have, and what makes the recipe before --set and --data."""

    args: argparse.Namespace
    unknown: list[str]
    make_recipe: Callable[[bool], Recipe]
    """Its argument says whether files may be written: a model of another format is imported then."""

    def run(self) -> int:
        """Train and score one run, or those of all seeds, or in a Slurm job array that of one of the seeds. Return the exit code. Ranks
        other than the first leave after training. Raises: ConfigError; LocalError on other ranks than the first."""
        recipe = self._find_recipe()
        if recipe is None:
            return self._train()
        run_dir, num_seeds = self.args.run_dir or Path("runs") / recipe.name, recipe.finetune.seeds
        number = array_task(num_seeds) if num_seeds > 1 else None
        check_layout(run_dir, num_seeds)
        if num_seeds == 1:
            return self._train_and_score(run_dir)
        if number is not None:
            return self._train_one_of(recipe, run_dir, number)
        return self._train() if self.args.dry_run else run_seeds(recipe, run_dir, python_command())

    def _find_recipe(self) -> Recipe | None:
        """Return the recipe. None if the flags ask for help only, or if they contain an error, which _train() reports as every command
        does."""
        if self.unknown or self.args.help_set is not None:
            return None
        quiet_libraries()
        try:
            return changed_recipe(self.make_recipe(not self.args.dry_run), self.args.set, self.args.data)
        except ConfigError:
            return None

    def _train(self) -> int:
        writes = not (self.args.dry_run or self.unknown or self.args.help_set is not None)
        return train_command(self.args, self.unknown, lambda: self.make_recipe(writes))

    def _train_and_score(self, run_dir: Path) -> int:
        code = self._train()
        if code == EXIT_DONE and self._reports:
            from recipes.finetune.scoring import score_run  # seconds of imports

            score_run(run_dir)
        return code

    def _train_one_of(self, recipe: Recipe, run_dir: Path, number: int) -> int:
        self.args.run_dir = seed_folder(run_dir, number)
        self.args.set += seed_settings(recipe, number)
        if self._reports:
            share_prepared(run_dir, number)
        code = self._train_and_score(self.args.run_dir)
        if code == EXIT_DONE and self._reports:
            report_seeds(recipe, run_dir)
        return code

    @property
    def _reports(self) -> bool:
        return is_first_rank() and not self.args.dry_run
