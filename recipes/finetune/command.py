"""The fine-tuning commands: --from and --task -> recipe, then the same loop as pre-training, then the scores. Torch-free until training
starts, so --help and --dry-run are quick."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES, default_recipe
from recipes.cluster.command import exit_code_of
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.finetune.child import follow_parent
from recipes.finetune.configurations import Published, choose_settings, random_network, unfrozen
from recipes.finetune.sources import RANDOM, TOKENIZER_FROM, SourceFlags, find_source
from recipes.finetune.start import Start
from recipes.settings import with_values
from recipes.train.cli import build_parser

MakeRecipe = Callable[[str, Any, Recipe], Recipe]
"""Makes the recipe of a task: (name of the task, its settings, recipe whose network is fine-tuned) -> recipe."""


@dataclass(frozen=True)
class Tasks:
    """The tasks of one modality: name -> settings, and the function that makes a recipe of them."""

    modality: str
    settings: Mapping[str, Any]
    make_recipe: MakeRecipe
    published: Published = field(default_factory=dict)


def finetune_main(description: str, tasks: Tasks) -> int:
    """Run a fine-tuning command with the flags of sys.argv, print an error if it fails, and return the exit code. `description`: what
    --help prints."""
    return exit_code_of(lambda: _run(description, tasks))


def _run(description: str, tasks: Tasks) -> int:
    follow_parent()
    networks = RECIPES[tasks.modality]
    published = [name for names in tasks.published.values() for name in names]
    parser = build_parser(description, [*networks, *published], default_recipe(tasks.modality))
    parser.set_defaults(recipe=None)  # a recipe that is given with --from RUN is an error, also the default one
    parser.add_argument("--from", dest="source", metavar="RUN", help='run dir, checkpoint, Hugging Face folder or hub name, or "random"')
    parser.add_argument("--task", help=f"one of {', '.join(tasks.settings)}")
    args, unknown = parser.parse_known_args()
    if assigned(args.set, "finetune.task"):
        raise ConfigError("--set finetune.task: --task names the task")
    if args.help_set is not None:  # the settings of a task, whichever was named
        args.task, args.source = args.task or next(iter(tasks.settings)), args.source or RANDOM

    @cache  # a start asks for it twice, and a dry run prints a line about a model
    def make_recipe(run_dir: Path | None, writes: bool) -> Recipe:
        tokenizer = assigned(args.set, TOKENIZER_FROM)
        return task_recipe(tasks, args.source, args.task, args.recipe, run_dir=run_dir, tokenizer_from=tokenizer, writes=writes)

    return Start(args, unknown, lambda writes: make_recipe(args.run_dir, writes)).run()


def assigned(assignments: list[str], name: str) -> str | None:
    """Return the text that the last of the --set `assignments` gives the setting `name`; None if none does, or it is none."""
    texts = [text.strip() for key, _, text in (one.partition("=") for one in assignments) if key.strip() == name]
    return texts[-1] if texts and texts[-1].lower() != "none" else None


def task_recipe(
    tasks: Tasks,
    source: str | None,
    task: str | None,
    recipe_name: str | None,
    *,
    run_dir: Path | None = None,
    tokenizer_from: str | None = None,
    writes: bool = True,
) -> Recipe:
    """Return the recipe of a fine-tuning run. `source`: --from. `task`: --task. `recipe_name`: --recipe. If `source` is "random", it is the
    recipe whose network begins with random weights, of which nothing is frozen. Otherwise it may be a published configuration of the task.
    `run_dir`: --run-dir; a run that has begun there decides the network. `tokenizer_from`, `writes`: see SourceFlags. Raises:
    ConfigError."""
    if task is None or task not in tasks.settings:
        found = "--task is missing" if task is None else f"--task {task}: unknown"
        raise ConfigError(f"{found}; there are {', '.join(tasks.settings)}")
    own = tasks.settings[task]
    settings = own if source == RANDOM else choose_settings(task, own, recipe_name, tasks.published)
    network = partial(random_network, tasks.modality, recipe_name, tasks.published)
    if run_dir is None:  # the name of the recipe does not depend on its network
        run_dir = Path("runs") / tasks.make_recipe(task, settings, RECIPES[tasks.modality][default_recipe(tasks.modality)]()).name
    found_source = find_source(SourceFlags(source, tasks.modality, run_dir, tokenizer_from, writes), network)
    recipe = replace(tasks.make_recipe(task, settings, found_source.network), start=found_source.start)
    recipe = with_values(recipe, found_source.settings)
    is_random = found_source.start.start_from is None and source in (RANDOM, None)  # None: the run of the run dir goes on
    return unfrozen(recipe) if is_random else recipe
