"""Fine-tunes tiny pre-trained networks, and the same networks from random weights, on labelled data sets, and prints the table of
docs/results.md.

python benchmarks/finetune_results.py --data DATA --runs runs --out results

DATA has the folders cls-mr, speech-fsdd and so on. `--runs` has the pre-training runs text_tiny, speech_tiny and vision_tiny. Both arms of
a data set (pre-trained, random) have the same settings, tokenizer and seeds. Where there are several learning rates, each arm has that
with the best validation metric of one run. Test data are not read for this choice. What is finished is not run again, so an interrupted
command goes on.
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
    """A row of the table: which command fine-tunes on which data, with which settings beside those of the task, and the metric."""

    name: str
    modality: str
    task: str
    settings: tuple[str, ...]
    rates: tuple[str, ...] = ("5e-4",)
    """Learning rates to choose from, by the largest metric."""
    seeds: int = 5
    metric: str = "accuracy"

    @property
    def folder(self) -> str:
        """Name of the data's folder."""
        return self.name.partition(",")[0]


WHOLE = "objective.frozen=nothing"
"""The published frozen extractor is of little use in a tiny network: see docs/results.md."""
DATA_SETS = (
    DataSet("cls-mr", "text", "classify", ("finetune.epochs=1",)),
    DataSet("cls-subj", "text", "classify", ("finetune.epochs=1",)),
    DataSet("cls-clinc150", "text", "classify", ("finetune.epochs=2", "data.label_column=intent")),
    DataSet("cls-banking77", "text", "classify", ("finetune.epochs=3", "data.label_column=category")),
    DataSet("pair-sick", "text", "pair", ("finetune.epochs=3", "data.label_column=entailment")),
    DataSet(
        "speech-fsdd, 300 labels",
        "speech",
        "classify",
        ("finetune.epochs=20", "finetune.evals_per_epoch=0.2", "data.max_train_samples=300", WHOLE),
        rates=("3e-4", "1e-3"),
    ),
    DataSet("speech-fsdd", "speech", "classify", ("finetune.epochs=4", WHOLE), rates=("3e-4", "6e-4")),
    DataSet("image-flowers", "vision", "classify", ("finetune.epochs=3", "data.num_workers=0"), rates=("3e-4", "1e-3")),
    DataSet("image-pets3", "vision", "classify", ("finetune.epochs=10", "data.num_workers=0"), rates=("3e-4", "1e-3")),
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
            finetune(one, arm, args, rate=best_rate(one, arm, args))
    print("\n".join(table(chosen, args.out)))
    return 0


def best_rate(one: DataSet, arm: str, args: argparse.Namespace) -> str:
    """Return the learning rate with the best validation metric, after one run with each that scores no test split."""
    if len(one.rates) == 1:
        return one.rates[0]
    found = list[tuple[float, str]]()
    for rate in one.rates:
        folder = finetune(one, arm, args, rate=rate, is_choice=True)
        found.append((entry_of(folder, one.metric)["mean"], rate))
        print(f"{one.name}, {arm}: optim.lr {rate}: validation {one.metric} {found[-1][0]:.3f}", flush=True)
    return max(found)[1]


def finetune(one: DataSet, arm: str, args: argparse.Namespace, *, rate: str, is_choice: bool = False) -> Path:
    """Fine-tune one arm of a data set with all seeds and return the run dir, OUT/NAME-ARM. Its output goes to a file of that name with
    .log. `is_choice`: one run on validation data, to choose the learning rate. Raises: ConfigError if the command ends with an error."""
    run, folder = args.runs / f"{one.modality}_tiny", run_dir_of(one, arm, args.out, suffix=f"-{rate}" if is_choice else "")
    source = [str(run)] if arm == PRETRAINED else ["random", "--recipe", f"{one.modality}_tiny"]
    tokenizer = (f"finetune.tokenizer_from={run}",) if one.modality == "text" and arm == RANDOM else ()
    extent = ("data.test_splits=",) if is_choice else (f"finetune.seeds={one.seeds}",)
    settings = [word for each in (*one.settings, *tokenizer, f"optim.lr={rate}", *extent) for word in ("--set", each)]
    words = [f"launch/finetune_{one.modality}.py", "--from", *source, "--task", one.task, "--data", str(args.data / one.folder)]
    words += ["--deepspeed_config", args.deepspeed_config]
    args.out.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a") as file:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, *words, "--run-dir", str(folder), *settings]
        code = subprocess.run(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        raise ConfigError(f"{shlex.join(words)} ended with {code}; {log} says why")
    return folder


def run_dir_of(one: DataSet, arm: str, out: Path, suffix: str = "") -> Path:
    """Return OUT/NAME-ARM, with `suffix`."""
    return out / f"{one.name.replace(', ', '-').replace(' ', '-')}-{arm}{suffix}"


def table(chosen: list[DataSet], out: Path) -> Iterator[str]:
    """Yield the lines of the table: a row for each data set of which an arm is finished."""
    yield "| data set | task | seeds | metric | pre-trained | random | difference, standard errors |"
    yield "|---|---|---|---|---|---|---|"
    for one in chosen:
        found = {arm: entry_of(run_dir_of(one, arm, out), one.metric) for arm in (PRETRAINED, RANDOM)}
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
