"""The two commands of launch/pretrain.sbatch. Before training: check the command and print its run dir. After training: requeue or
hold the job. Torch-free.

    python -m recipes.job.batch begin launch/pretrain_text.py --recipe text_base ...     prints the run dir
    python -m recipes.job.batch end RUN_DIR --code N [--asked] [--max-tries 3]           requeues or holds the job, prints why
"""

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from recipes.checkpoint.layout import newest, step_of
from recipes.errors import ConfigError, Stopped
from recipes.finetune.seeds import active_run
from recipes.job.requeue import FINAL_CODES, Action, Attempt, Verb, attempt_from_json, classify_attempt, decide
from recipes.ledger.launches import BEGINS
from recipes.system.json_lines import JsonLines, read_rows
from recipes.system.terminal import protect_terminal
from recipes.watch.endings import FOLDER, Ending, first_failure, read_endings

ATTEMPTS = "attempts.jsonl"
GRID_TASK = "DATA2VEC_GRID_TASK"
"""Variable in which launch/scaling.sbatch keeps the number of the task. SLURM_ARRAY_TASK_ID is the number of a seed."""
RUN_DIR_LINE = "run dir: "
NODE_ENDED = re.compile(r"^srun: error: .*: Exited with exit code (\d+)$", re.M)
NODE_STOPPED = re.compile(r"^\S+: stopped on request$", re.M)
"""Matches the line that the batch script prints if the ranks of a node ended with exit code 75 (stopped on request). srun itself gets exit
code 0 for such a node."""
CLOCK_SECONDS = 2.0
"""How much the clocks of two nodes may differ."""
STOP_FILE_REASON = "the file stop"


def main(argv: list[str]) -> int:
    """Run the command `begin` or `end` with its arguments (`argv`), and return its exit code. The batch script exits with that of `end`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("begin", allow_abbrev=False)
    first.add_argument("command", nargs=argparse.REMAINDER)
    first.set_defaults(run=lambda args: begin(args.command))
    last = commands.add_parser("end", allow_abbrev=False)
    last.add_argument("run_dir", type=Path)
    last.add_argument("--code", type=int, required=True, help="srun's exit code")
    last.add_argument("--said", type=Path, help="file with srun's stderr; it is removed")
    last.add_argument("--since", type=float, default=0.0, help="unix time at which the batch script began")
    last.add_argument("--asked", action="store_true", help="the batch script got USR2")
    last.add_argument("--max-tries", type=int, default=3)
    last.add_argument("--give-up", choices=("hold", "fail"), default="hold", help="what happens to the job after its last try")
    last.set_defaults(run=end)
    protect_terminal()  # the job must be requeued or held even if printing is impossible
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def begin(command: list[str]) -> int:
    """Run the training command with --dry-run, so that a wrong flag is reported before any rank starts, and print its run dir. Returns 0,
    or the exit code of a dry run that failed.

    Raises: ConfigError if the job was submitted without a number of nodes.
    """
    if _env("SLURM_JOB_NUM_NODES") == "1" and not _script_names_nodes():
        raise ConfigError(
            f"job {_env('SLURM_JOB_ID')} has 1 node, Slurm's default without --nodes; "
            "put #SBATCH --nodes=N into the batch script, 1 if that is what you want"
        )
    done = subprocess.run([sys.executable, *command, "--dry-run"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return done.returncode
    shown = next(line for line in reversed(done.stdout.splitlines()) if line.startswith(RUN_DIR_LINE))
    run_dir = Path(shown.removeprefix(RUN_DIR_LINE).removesuffix(" (exists)"))
    print(run_dir)
    _report_previous_attempt(active_run(run_dir))
    return 0


def _report_previous_attempt(run_dir: Path) -> None:
    """Print how the previous start of this job failed, if its batch script could not print that, for example because its node died."""
    restarts = int(_env("SLURM_RESTART_COUNT", "0"))
    reported = [
        row for row in _rows(run_dir / ATTEMPTS)[-1:] if (row.get("job"), row.get("restart")) == (_env("SLURM_JOB_ID"), str(restarts - 1))
    ]
    if restarts == 0 or reported:
        return
    endings = read_endings(run_dir / FOLDER)
    failure = next((one for one in endings if one.ended == "gone"), None) or first_failure(endings)
    if failure:
        print(f"job {_env('SLURM_JOB_ID')}, attempt {restarts}, which Slurm has ended: {failure}", file=sys.stderr)


def _script_names_nodes() -> bool:
    """True if the job's batch script sets --nodes or -N, or if Slurm has no batch script of the job.

    A --nodes on the command line of sbatch is not seen, because Slurm does not keep that line.
    """
    shown = subprocess.run(["scontrol", "write", "batch_script", _env("SLURM_JOB_ID"), "-"], capture_output=True, text=True, check=False)
    return shown.returncode != 0 or re.search(r"^#SBATCH\s.*(--nodes\b|-N)", shown.stdout, re.M) is not None


def end(args: argparse.Namespace) -> int:
    """Requeue the job, hold it, or do neither, depending on how its ranks ended. Return the exit code of the batch script.

    Before that, append the attempt to attempts.jsonl and print the decision in one line. `args`: the parsed flags of the command `end`.
    """
    run_dir = active_run(args.run_dir)
    endings = _of_this_attempt(read_endings(run_dir / FOLDER), args.since)
    history = [attempt_from_json(row) for row in _rows(run_dir / ATTEMPTS) if "kind" in row]
    events = [event for event in _rows(run_dir / "events.jsonl") if event.get("time", 0.0) >= args.since - CLOCK_SECONDS]
    stop = str(events[-1].get("reason")) if events and events[-1].get("event") == "stop" else None
    found = newest(run_dir) if run_dir.is_dir() else None
    step = step_of(found) if found else 0
    started_at = next((event["step"] for event in events if event.get("event") in BEGINS), step)
    code = _code_of_nodes(args.said, args.code)
    attempt = classify_attempt(endings, code, step, was_asked=args.asked, stop_reason=stop)
    codes = [ending.code for ending in endings if ending.code is not None] + [code]
    restarts = 0 if run_dir.is_dir() else int(_env("SLURM_RESTART_COUNT", "0"))  # without a run dir Slurm's count is the only history
    action = decide([*history, *[attempt] * restarts], attempt, started_at, args.max_tries, codes)
    if action.verb == "hold" and args.give_up == "fail":
        action = Action("fail", action.code, action.line.replace("held after", "given up after"))
    if action.verb in ("requeue", "hold"):
        attempt, action = _adapt_to_slurm_state(attempt, action, has_records=any(ending.time is not None for ending in endings))
    _append_attempt(run_dir, attempt, action)
    print(f"job {_env('SLURM_JOB_ID')}, attempt {int(_env('SLURM_RESTART_COUNT', '0')) + 1}: {action.line}", flush=True)
    _apply_to_slurm(action)
    return action.code


def _code_of_nodes(srun_stderr: Path | None, code: int) -> int:
    """Return the exit code of the nodes, read from the file `srun_stderr`, which is then removed.

    It is the first code in FINAL_CODES that srun printed, else the first code that it printed at all, else 75 if a node was stopped on
    request. If there is no such line or no file, return `code`: srun's own exit code, which may come from nodes that srun killed.
    """
    if srun_stderr is None or not srun_stderr.is_file():
        return code
    text = srun_stderr.read_text(errors="replace")
    srun_stderr.unlink()
    codes = [int(found) for found in NODE_ENDED.findall(text)]
    if not codes and NODE_STOPPED.search(text):
        return Stopped.exit_code
    return next((found for found in codes if found in FINAL_CODES), codes[0] if codes else code)


def _of_this_attempt(endings: list[Ending], since: float) -> list[Ending]:
    """Return `endings` unchanged, or [] if any of them is older than this attempt, which began at the unix time `since`.

    One old ending shows that all of them are of an earlier launch, because a launch removes the old ones when it owns the run dir.
    """
    return [] if any(ending.time is not None and ending.time < since - CLOCK_SECONDS for ending in endings) else endings


def _adapt_to_slurm_state(attempt: Attempt, action: Action, *, has_records: bool) -> tuple[Attempt, Action]:
    """Return `attempt` and `action`, changed if Slurm's state of the job requires it. `has_records`: a rank has left a record.

    The action becomes "stay" (neither requeue nor hold) if the job is not running any more, cannot be requeued, or was stopped by the
    user's file `stop`. If it is not running any more, the attempt counts as stopped, because its ranks may still be saving.
    """
    job = _job_facts()
    state = job.get("JobState", "gone")
    if state != "RUNNING":
        reason = attempt.reason if has_records else "there are no records of its ranks yet"
        line = _replace_last_clause(action, f"not touched, since Slurm has ended it ({state})").replace(attempt.reason, reason)
        return Attempt("stopped", attempt.step, f"ended by Slurm ({state}): {reason}"), Action("stay", action.code, line)
    if attempt.kind == "stopped" and STOP_FILE_REASON in attempt.reason:
        line = _replace_last_clause(action, "not requeued, because the file stop asked for an end; the same command continues")
        return attempt, Action("stay", action.code, line)
    if job.get("BatchFlag") != "1" or job.get("Requeue") != "1":
        return attempt, Action(
            "stay", action.code, _replace_last_clause(action, "the same command continues (this job cannot be requeued)")
        )
    return attempt, action


def _replace_last_clause(action: Action, text: str) -> str:
    return action.line.rpartition("; ")[0] + f"; {text}"


def _job_facts() -> dict[str, str]:
    shown = subprocess.run(["scontrol", "show", "job", "-o", _own_job()], capture_output=True, text=True, check=False)
    return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)


def _apply_to_slurm(action: Action) -> None:
    """Requeue or hold the job with scontrol, which ends this batch script too. Any other action does nothing."""
    verbs: dict[Verb, str] = {"requeue": "requeue", "hold": "requeuehold"}
    if action.verb not in verbs:
        return
    job = _own_job()
    if action.verb == "hold":
        print(f"fix it, then: scontrol release {job}", flush=True)
        subprocess.run(["scontrol", "update", f"JobId={job}", f"Comment={action.line}"], check=False)
    subprocess.run(["scontrol", verbs[action.verb], job], check=False)


def _own_job() -> str:
    """Return the job's name for scontrol. One task of an array has the number of the whole array as its SLURM_JOB_ID: with that, scontrol
    would act on all tasks."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get(GRID_TASK)
    return f"{_env('SLURM_ARRAY_JOB_ID')}_{task}" if task and "SLURM_ARRAY_JOB_ID" in os.environ else _env("SLURM_JOB_ID")


def _append_attempt(run_dir: Path, attempt: Attempt, action: Action) -> None:
    """Append the attempt, with the verb of `action`, to attempts.jsonl in the run dir. Does nothing if there is no run dir yet."""
    if not run_dir.is_dir():
        return
    facts = {"time": time.time(), "job": _env("SLURM_JOB_ID"), "restart": _env("SLURM_RESTART_COUNT", "0")}
    JsonLines(run_dir / ATTEMPTS).append({**facts, **asdict(attempt), "action": action.verb})


def _env(name: str, default: str = "?") -> str:
    return os.environ.get(name, default)


def _rows(path: Path) -> list[dict]:
    return read_rows(path)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
