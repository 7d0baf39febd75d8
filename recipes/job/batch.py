"""The two things that launch/pretrain.sbatch asks Python for: before training, whether the command would run here and in which run dir;
after it, what becomes of the job. Torch-free.

    python -m recipes.job.batch begin launch/pretrain_text.py --recipe text_base ...     prints the run dir
    python -m recipes.job.batch end RUN_DIR --code N [--asked] [--max-tries 3]           requeues or holds the job, says why
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
from recipes.job.requeue import FINAL_CODES, Action, Attempt, Verb, attempt_from_json, classify_attempt, decide
from recipes.ledger.launches import BEGINS
from recipes.system.json_lines import JsonLines, read_rows
from recipes.system.terminal import protect_terminal
from recipes.watch.endings import FOLDER, Ending, first_failure, read_endings

ATTEMPTS = "attempts.jsonl"
RUN_DIR_LINE = "run dir: "
NODE_ENDED = re.compile(r"^srun: error: .*: Exited with exit code (\d+)$", re.M)
NODE_STOPPED = re.compile(r"^\S+: stopped on request$", re.M)
"""What the batch script says where the ranks of a node have ended with 75, which it tells srun as 0."""
CLOCK_SECONDS = 2.0
"""By which clocks of nodes may differ."""
STOP_FILE_REASON = "the file stop"


def main(argv: list[str]) -> int:
    """Exit code: that of the batch script, 0 from `begin`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("begin")
    first.add_argument("command", nargs=argparse.REMAINDER)
    first.set_defaults(run=lambda args: begin(args.command))
    last = commands.add_parser("end")
    last.add_argument("run_dir", type=Path)
    last.add_argument("--code", type=int, required=True, help="srun's exit code")
    last.add_argument("--said", type=Path, help="file with srun's stderr; it is removed")
    last.add_argument("--since", type=float, default=0.0, help="unix time at which the batch script began")
    last.add_argument("--asked", action="store_true", help="the batch script got USR2")
    last.add_argument("--max-tries", type=int, default=3)
    last.set_defaults(run=end)
    protect_terminal()  # Slurm must be told even where nothing more can be printed
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def begin(command: list[str]) -> int:
    """Dry-run the command as one of the job's ranks, so that a wrong flag costs no allocation; print its run dir.

    Raises: ConfigError where nobody gave the job a number of nodes.
    """
    if _env("SLURM_JOB_NUM_NODES") == "1" and not _script_names_nodes():
        raise ConfigError(
            f"job {_env('SLURM_JOB_ID')} has 1 node, which is what Slurm gives where nobody says --nodes; "
            "put #SBATCH --nodes=N into the batch script, 1 if that is what you want"
        )
    done = subprocess.run([sys.executable, *command, "--dry-run"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return done.returncode
    shown = next(line for line in reversed(done.stdout.splitlines()) if line.startswith(RUN_DIR_LINE))
    run_dir = Path(shown.removeprefix(RUN_DIR_LINE).removesuffix(" (exists)"))
    print(run_dir)
    _report_previous_attempt(run_dir)
    return 0


def _report_previous_attempt(run_dir: Path) -> None:
    """What the ranks of the attempt before have left, where its batch script could not say it any more, as when a node died."""
    restarts = int(_env("SLURM_RESTART_COUNT", "0"))
    told = [
        row for row in _rows(run_dir / ATTEMPTS)[-1:] if (row.get("job"), row.get("restart")) == (_env("SLURM_JOB_ID"), str(restarts - 1))
    ]
    if restarts == 0 or told:
        return
    endings = read_endings(run_dir / FOLDER)
    failure = next((one for one in endings if one.ended == "gone"), None) or first_failure(endings)
    if failure:
        print(f"job {_env('SLURM_JOB_ID')}, attempt {restarts}, which Slurm has ended: {failure}", file=sys.stderr)


def _script_names_nodes() -> bool:
    """Slurm does not keep what was said to sbatch, only the script. In an allocation that was not made by one there is nothing to ask."""
    shown = subprocess.run(["scontrol", "write", "batch_script", _env("SLURM_JOB_ID"), "-"], capture_output=True, text=True, check=False)
    return shown.returncode != 0 or re.search(r"^#SBATCH\s.*(--nodes\b|-N)", shown.stdout, re.M) is not None


def end(args: argparse.Namespace) -> int:
    """Judge the attempt, tell Slurm, print one line, and keep a line in the run dir."""
    run_dir: Path = args.run_dir
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
    restarts = 0 if run_dir.is_dir() else int(_env("SLURM_RESTART_COUNT", "0"))  # without a run dir there is no history but Slurm's
    action = decide([*history, *[attempt] * restarts], attempt, started_at, args.max_tries, codes)
    if action.verb in ("requeue", "hold"):
        attempt, action = _adapt_to_slurm_state(attempt, action, has_records=any(one.time is not None for one in endings))
    _append_attempt(run_dir, attempt, action)
    print(f"job {_env('SLURM_JOB_ID')}, attempt {int(_env('SLURM_RESTART_COUNT', '0')) + 1}: {action.line}", flush=True)
    _apply_to_slurm(action)
    return action.code


def _code_of_nodes(said: Path | None, code: int) -> int:
    """The exit code of the node that ended by itself: srun's own (`code`) is of those that it killed then."""
    if said is None or not said.is_file():
        return code
    text = said.read_text(errors="replace")
    said.unlink()
    codes = [int(found) for found in NODE_ENDED.findall(text)]
    if not codes and NODE_STOPPED.search(text):
        return Stopped.exit_code
    return next((one for one in codes if one in FINAL_CODES), codes[0] if codes else code)


def _of_this_attempt(endings: list[Ending], since: float) -> list[Ending]:
    """All of them, or none where they are those of a launch before: this one has ended before it took the run dir."""
    return [] if any(one.time is not None and one.time < since - CLOCK_SECONDS for one in endings) else endings


def _adapt_to_slurm_state(attempt: Attempt, action: Action, *, has_records: bool) -> tuple[Attempt, Action]:
    """Only a batch job that still runs and may be requeued is. One that was cancelled, or that Slurm itself has requeued, is let alone:
    its ranks may be saving at this moment, so that none has left a word (`has_records`), and their end is no crash."""
    job = _job_facts()
    state = job.get("JobState", "gone")
    if state != "RUNNING":
        reason = attempt.reason if has_records else "nothing is known of its ranks"
        line = _replace_last_clause(action, f"not touched, since Slurm has ended it ({state})").replace(attempt.reason, reason)
        return Attempt("stopped", attempt.step, f"ended by Slurm ({state}): {reason}"), Action("stay", action.code, line)
    if attempt.kind == "stopped" and STOP_FILE_REASON in attempt.reason:
        line = _replace_last_clause(action, "not requeued, for the file asked for an end; the same command continues")
        return attempt, Action("stay", action.code, line)
    if job.get("BatchFlag") != "1" or job.get("Requeue") != "1":
        return attempt, Action(
            "stay", action.code, _replace_last_clause(action, "the same command continues (this job cannot be requeued)")
        )
    return attempt, action


def _replace_last_clause(action: Action, text: str) -> str:
    return action.line.rpartition("; ")[0] + f"; {text}"


def _job_facts() -> dict[str, str]:
    shown = subprocess.run(["scontrol", "show", "job", "-o", _env("SLURM_JOB_ID")], capture_output=True, text=True, check=False)
    return dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)


def _apply_to_slurm(action: Action) -> None:
    """Both end this batch script too."""
    verbs: dict[Verb, str] = {"requeue": "requeue", "hold": "requeuehold"}
    if action.verb not in verbs:
        return
    job = _env("SLURM_JOB_ID")
    if action.verb == "hold":
        print(f"mend it, then: scontrol release {job}", flush=True)
        subprocess.run(["scontrol", "update", f"JobId={job}", f"Comment={action.line}"], check=False)
    subprocess.run(["scontrol", verbs[action.verb], job], check=False)


def _append_attempt(run_dir: Path, attempt: Attempt, action: Action) -> None:
    """Where no run has begun there is no run dir, and nothing to remember it by but Slurm."""
    if not run_dir.is_dir():
        return
    facts = {"time": time.time(), "job": _env("SLURM_JOB_ID"), "restart": _env("SLURM_RESTART_COUNT", "0")}
    JsonLines(run_dir / ATTEMPTS).append({**facts, **asdict(attempt), "deed": action.verb})


def _env(name: str, default: str = "?") -> str:
    return os.environ.get(name, default)


def _rows(path: Path) -> list[dict]:
    return read_rows(path)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
