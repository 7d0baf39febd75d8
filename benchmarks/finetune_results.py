"""Fine-tunes tiny pre-trained networks, and the same networks from random weights, on labelled data sets, and prints the table of
docs/results.md.

python benchmarks/finetune_results.py --data DATA --runs runs --out results

DATA has the folders cls-mr, speech-fsdd and so on. `--runs` has the pre-training runs text_tiny, speech_tiny and vision_tiny. Both arms of
a data set have the same settings, tokenizer and seeds. What is finished is not run again, so an interrupted command goes on.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.errors import ConfigError

PRETRAINED, RANDOM = "pre-trained", "random"


@dataclass(frozen=True)
class DataSet:
    """A labelled data set: which command fine-tunes on it, with which settings beside those of the task, and the metric of the table."""

    name: str
    modality: str
    task: str
    metric: str
    settings: tuple[str, ...] = ()
    seeds: int = 5


DATA_SETS = (
    DataSet("cls-mr", "text", "classify", "accuracy", ("finetune.epochs=3",)),
    DataSet("cls-subj", "text", "classify", "accuracy", ("finetune.epochs=3",)),
    DataSet("cls-clinc150", "text", "classify", "accuracy", ("finetune.epochs=6", "data.label_column=intent")),
    DataSet("cls-banking77", "text", "classify", "accuracy", ("finetune.epochs=6", "data.label_column=category")),
    DataSet("pair-sick", "text", "pair", "accuracy", ("finetune.epochs=6", "data.label_column=entailment")),
    DataSet("speech-fsdd", "speech", "classify", "accuracy", ("finetune.epochs=5", "objective.frozen=nothing")),
    DataSet("speech-ocean762", "speech", "ctc", "cer", ("finetune.epochs=20",), seeds=3),
    DataSet("image-flowers", "vision", "classify", "accuracy", ("finetune.epochs=5",)),
    DataSet("image-pets3", "vision", "classify", "accuracy", ("finetune.epochs=10",)),
)


def main() -> int:
    """Parse the flags, run what is not finished, and print the table. Returns the exit code 0."""
    names = ", ".join(one.name for one in DATA_SETS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--runs", type=Path, required=True, help="folder with the runs text_tiny, speech_tiny, vision_tiny")
    parser.add_argument("--out", type=Path, required=True, help="folder for the fine-tuned runs")
    parser.add_argument("--deepspeed_config", default="ds_configs/zero3_cpu_bf16.json", help="for all runs (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of {names}")
    parser.add_argument("--table", action="store_true", help="only print the table of what is finished")
    args = parser.parse_args()
    chosen = [one for one in DATA_SETS if not args.only or one.name in args.only]
    for one in chosen if not args.table else ():
        for arm in (PRETRAINED, RANDOM):
            finetune(one, arm, args)
    print("\n".join(table(chosen, args.out)))
    return 0


def finetune(one: DataSet, arm: str, args: argparse.Namespace) -> None:
    """Fine-tune one arm of a data set with all seeds. Its output goes to OUT/NAME-ARM.log. Raises: ConfigError if it ends with an error."""
    run = args.runs / f"{one.modality}_tiny"
    source = [str(run)] if arm == PRETRAINED else ["random", "--recipe", f"{one.modality}_tiny"]
    folder = args.out / f"{one.name}-{arm}"
    tokenizer = (f"finetune.tokenizer_from={run}",) if one.modality == "text" and arm == RANDOM else ()
    settings = [word for each in (*one.settings, *tokenizer, f"finetune.seeds={one.seeds}") for word in ("--set", each)]
    words = [f"launch/finetune_{one.modality}.py", "--from", *source, "--task", one.task, "--data", str(args.data / one.name)]
    words += ["--deepspeed_config", args.deepspeed_config]
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{one.name}-{arm}.log").open("a") as log:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, *words, "--run-dir", str(folder), *settings]
        code = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        raise ConfigError(f"{shlex.join(words)} ended with {code}; {args.out}/{one.name}-{arm}.log says why")


def table(chosen: list[DataSet], out: Path) -> Iterator[str]:
    """Yield the lines of the table: a row for each data set of which an arm is finished."""
    yield "| data set | task | seeds | metric | pre-trained | random | difference, standard errors |"
    yield "|---|---|---|---|---|---|---|"
    for one in chosen:
        found = {arm: entry_of(out / f"{one.name}-{arm}", one.metric) for arm in (PRETRAINED, RANDOM)}
        cells = [f"{entry['mean']:.3f} +- {entry['standard_error']:.3f}" if entry else "" for entry in found.values()]
        difference = ""
        if all(found.values()):
            gap = found[PRETRAINED]["mean"] - found[RANDOM]["mean"]
            error = sum(entry["standard_error"] ** 2 for entry in found.values()) ** 0.5
            difference = f"{gap:+.3f}, {abs(gap) / error:.1f}" if error else f"{gap:+.3f}"
        if any(cells):
            yield f"| {one.name} | {one.task} | {one.seeds} | {one.metric} | {' | '.join(cells)} | {difference} |"


def entry_of(folder: Path, metric: str) -> dict:
    """Return the entry of results.json with this metric, as mean and standard error over the seeds; {} if it is not there yet."""
    path = folder / "results.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    return next((entry for entry in entries if entry["metric"] == metric), {})


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
