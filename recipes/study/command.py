"""launch/scaling.py: the verbs of a study. Torch-free until data are prepared."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.cluster.environment import may_see_devices, num_devices
from recipes.errors import ConfigError
from recipes.study.cells import Cell, cells_of, left_out_lines
from recipes.study.collect import collect, read_curves, read_table, save_dataset
from recipes.study.fit_lines import fit_lines
from recipes.study.grid import grid_lines
from recipes.study.local import LocalRuns, only_driver
from recipes.study.progress import progress_of, status_lines, summary_line
from recipes.study.run_command import prepare_data
from recipes.study.run_folder import Run, check_folders, runs_of, write_records
from recipes.study.slurm_array import ArrayOptions, SlurmArrays, check_slurm
from recipes.study.study_checks import check_study
from recipes.study.study_file import Study, read_study
from recipes.study.wording import in_number
from recipes.values import path_argument, positive_count

Say = Callable[[str], None]
RETRIES = 2


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of launch/scaling.py. `description`: what --help prints above the flags."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace, Say], int], words: str, more: str = "") -> argparse.ArgumentParser:
        example = f"{words}\n\npython launch/scaling.py {name} text_isoflop{more}"
        raw = argparse.RawDescriptionHelpFormatter
        found = verbs.add_parser(name, help=words, description=example, formatter_class=raw, allow_abbrev=False)
        found.add_argument("study", type=path_argument, help="the study file, or the name of one of recipes/studies/")
        found.set_defaults(run=run)
        return found

    verb("grid", run_grid, "print the cells with their derived numbers, FLOPs and plans")
    submit = verb("submit", run_submit, "train what is not done yet, as a Slurm job array or here", " --local 2")
    submit.add_argument("--local", type=positive_count, metavar="N", help="train on this machine, N runs at a time")
    submit.add_argument("--limit", type=positive_count, metavar="N", help="most tasks of Slurm that run at the same time")
    submit.add_argument(
        "--retries", type=int, default=RETRIES, metavar="N", help=f"how often a failed run is started again (default: {RETRIES})"
    )
    submit.add_argument("--sbatch", default="", metavar="OPTIONS", help='further options of sbatch, e.g. "--partition=gpu --time=2:00:00"')
    verb("status", run_status, "print one line for each run")
    collected = verb("collect", run_collect, "read all runs, and write table.parquet, table.csv and curves.parquet")
    verb("fit", run_fit, "fit a law to the table, and write fit.json")
    verb("report", run_report, "write report.html and its pictures")
    collected.add_argument("--dataset", action="store_true", help="also write the table as a folder for datasets.load_from_disk")
    return parser


def open_study(path: Path) -> tuple[Study, list[Cell], list[Run]]:
    """Return a study, its cells and its runs, after all checks. Raises: ConfigError."""
    study = read_study(path)
    check_study(study)
    cells = cells_of(study)
    check_folders(study, cells)
    return study, cells, runs_of(study, cells)


def run_grid(args: argparse.Namespace, say: Say) -> int:
    """Print the cells of the study. Returns 0. Raises: ConfigError."""
    study, cells, runs = open_study(args.study)
    write_records(study, cells)
    for line in grid_lines(study, cells, progress_of(study, runs)):
        say(line)
    return 0


def run_submit(args: argparse.Namespace, say: Say) -> int:
    """Train the runs of the study that are not done. Returns 0. Raises: ConfigError; Stopped on request, when the runs have saved."""
    if args.local and (args.limit or args.sbatch):
        raise ConfigError("--local trains on this machine, --limit and --sbatch are for Slurm; leave one out")
    if args.retries < 0:
        raise ConfigError(f"--retries {args.retries}: must be a whole number from 0")
    study, cells, runs = open_study(args.study)
    write_records(study, cells)
    for line in left_out_lines(cells):
        say(line)
    with only_driver(study):
        submit = _submit_local if args.local else _submit_slurm
        failed = submit(study, runs, args, say)
    progress = progress_of(study, runs)
    say(summary_line(progress))
    for run, state in progress:
        if run.key in failed:
            say(f"failed for good: {run.name}: {state.reason}; --retries {failed[run.key]} tries it again")
    say(f"next: python launch/scaling.py {'collect' if args.local else 'status'} {shlex.quote(str(args.study))}")
    return 0


def _submit_local(study: Study, runs: Sequence[Run], args: argparse.Namespace, say: Say) -> dict[str, int]:
    arrays, waiting = SlurmArrays(study), list[Run]()
    for run, state in progress_of(study, runs):
        if arrays.queue_state(run):
            say(f"{run.name}: left to Slurm, which has it {'held' if state.state == 'failed' else state.state}")
        elif state.state != "done":
            waiting.append(run)
    if waiting and may_see_devices():
        _check_devices(waiting, min(args.local, len(waiting)))
    say(f"{in_number(len(waiting), 'run')} of {len(runs)} to train; {args.local} at a time")
    local = LocalRuns(study, prepare_data(study, waiting, say), at_once=args.local, retries=args.retries, say=say)
    return {run.key: local.attempts.num_failures(run) for run in local.train(waiting)}


def _check_devices(runs: Sequence[Run], at_once: int) -> None:
    """Check that the study is one of GPUs, since this machine has some, and that they suffice. Raises: ConfigError."""
    if any(run.cell.cluster.device.is_shared for run in runs):
        raise ConfigError(
            f'--local: the study is one for CPUs, and this machine has {num_devices()} GPUs; describe them, e.g. "cluster": '
            '"nodes=1,gpus=1,device=h100", or hide them: CUDA_VISIBLE_DEVICES= python launch/scaling.py submit ...'
        )
    most = at_once * max(run.cell.ranks for run in runs)
    if most > num_devices():
        raise ConfigError(f"--local: {at_once} runs need {most} GPUs, this machine has {num_devices()}; take fewer runs at a time")


def _submit_slurm(study: Study, runs: Sequence[Run], args: argparse.Namespace, say: Say) -> dict[str, int]:
    try:
        further = shlex.split(args.sbatch)
    except ValueError as error:
        raise ConfigError(f"--sbatch {args.sbatch}: {error}; quote it as a shell does") from None
    check_slurm()
    arrays, waiting, failed = SlurmArrays(study), list[Run](), dict[str, int]()
    for run, state in progress_of(study, runs):
        if state.state in ("done", "running") or arrays.queue_state(run):
            continue
        if state.state == "failed" and (starts := arrays.num_starts(run)) > args.retries:
            failed[run.key] = starts
        else:
            waiting.append(run)
    if waiting:
        data = prepare_data(study, waiting, say)
        for line in arrays.submit(waiting, data, ArrayOptions(args.limit, args.retries + 1, further)):
            say(line)
    return failed


def run_status(args: argparse.Namespace, say: Say) -> int:
    """Print the state of each run. Returns 0. Raises: ConfigError."""
    study, cells, runs = open_study(args.study)
    for line in status_lines(progress_of(study, runs)):
        say(line)
    for line in left_out_lines(cells):
        say(line)
    return 0


def run_collect(args: argparse.Namespace, say: Say) -> int:
    """Write the table and the curves of the study. Returns 0. Raises: ConfigError."""
    study, _, runs = open_study(args.study)
    rows = collect(study, progress_of(study, runs), say)
    if args.dataset:
        say(f"written to {save_dataset(study, rows)}")
    return 0


def run_fit(args: argparse.Namespace, say: Say) -> int:
    """Fit the study's law to its table. Returns 0. Raises: ConfigError if the data do not support one; fit.json says which test failed."""
    from recipes.study.fit import FIT, fit_study  # scipy

    study, _, _ = open_study(args.study)
    fit = fit_study(study, read_table(study))
    for line in fit_lines(fit.to_json()):
        say(line)
    say(f"written to {study.out / FIT}")
    if fit.failed:
        what = " and no ".join(dict.fromkeys(name for test in fit.failed for name in test["of"]))
        failed = "; ".join(f"{test['name']}: {test['detail']}" for test in fit.failed)
        raise ConfigError(f"{study.out / FIT}: the data support no {what} ({failed}); report has what they do show")
    return 0


def run_report(args: argparse.Namespace, say: Say) -> int:
    """Write the report of the study. Returns 0. Raises: ConfigError."""
    from recipes.study.report import PICTURES, write_report  # scipy, matplotlib

    study, cells, _ = open_study(args.study)
    page = write_report(study, cells, read_table(study), read_curves(study))
    say(f"written to {page}, with {PICTURES}/*.png; open it in a browser")
    return 0
