"""The command `import` of launch/convert.py: a model of Hugging Face or fairseq becomes a run dir. Torch-free until it runs."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cluster.environment import quiet_libraries, require_one_process
from recipes.errors import ConfigError
from recipes.values import name_argument, path_argument

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from recipes.interop.imported_model import ImportedModel


def add_command(commands: Any) -> None:
    """Add `import` to the sub-commands of launch/convert.py."""
    parser = commands.add_parser("import", help="make a run dir of a Hugging Face directory or a fairseq checkpoint", allow_abbrev=False)
    parser.add_argument(
        "--from",
        dest="source",
        type=name_argument,
        required=True,
        metavar="MODEL",
        help="Hugging Face directory or hub name, or a .pt file",
    )
    parser.add_argument("--format", choices=list(READERS), default="huggingface", help="what --from is (default: huggingface)")
    parser.add_argument("--run-dir", type=path_argument, required=True, help="a folder that does not exist yet, or an empty one")
    parser.add_argument("--recipe", help="recipe for data, optimizer, schedule and batch (default: the modality's Base)")
    parser.add_argument("--tokenizer", type=path_argument, metavar="PATH", help="tokenizer of a text model, if it is not in --from")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.set_defaults(run=run_import)


def run_import(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run `import`: write the run dir, print what was read and the command that trains on, and return 0. Raises: ConfigError."""
    require_one_process("import", "launch/convert.py")
    check_free(args.run_dir)
    quiet_libraries()
    model = READERS[args.format](args)
    from recipes.interop.imported_recipe import next_command  # seconds of imports
    from recipes.interop.imported_run import write_imported_run

    for line in write_imported_run(args.run_dir, model):
        say(line)
    extra = {"data.tokenizer": "FILE", "run.accept_changes": "data.lowercase,data.tokenizer"} if model.tokenizer.is_needed else {}
    say(f"imported into {args.run_dir}")
    say(f"next: {next_command(model.recipe, model.template, args.recipe or model.template.name, args.run_dir, extra)}")
    return 0


def check_free(run_dir: Path) -> None:
    """Check that a new run dir can be made there. Raises: ConfigError if there is a file, or a folder that is not empty."""
    try:
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            found = "is not empty" if run_dir.is_dir() else "is a file"
            raise ConfigError(f"--run-dir {run_dir}: {found}; name a new folder")
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: {error.strerror}; name a folder that you may write to") from None


def _read_hf(args: argparse.Namespace) -> "ImportedModel":
    from recipes.interop.hf_import import read_hf_model

    return read_hf_model(args.source, args.recipe, args.tokenizer)


def _read_fairseq(args: argparse.Namespace) -> "ImportedModel":
    from recipes.interop.fairseq_import import read_fairseq_model

    return read_fairseq_model(Path(args.source), args.recipe, args.tokenizer)


READERS: dict[str, "Callable[[argparse.Namespace], ImportedModel]"] = {"huggingface": _read_hf, "fairseq": _read_fairseq}
"""Value of --format -> function that reads the model that --from names."""
