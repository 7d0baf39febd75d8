"""Runs launch/finetune_text.py on a tiny network with random weights, for tests of the command."""

import json
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.launching import ROOT, launch, overrides, read_jsonl, start_ranks

FINETUNE_TEXT = ROOT / "launch" / "finetune_text.py"
UNUSED = {"teacher__average_top_k_layers": None, "run__max_steps": None, "optim__warmup_steps": None}
"""Settings of the tiny network that fine-tuning does not have, or takes from the data."""


def flags(data: object, run_dir: Path, *more: object, task: str = "classify", **changes: object) -> list[object]:
    """Return the flags of the command. `changes`: settings, named with __ instead of the dot."""
    tiny = overrides("text", **{"frontend__vocab_size": 100, "finetune__epochs": 0.5, **UNUSED, **changes})
    return ["--from", "random", "--task", task, "--data", data, "--run-dir", run_dir, *tiny, *more]


def finetune(data: object, run_dir: Path, *more: object, task: str = "classify", **changes: object) -> CompletedProcess[str]:
    """Run the command on one rank until it has ended."""
    return launch(FINETUNE_TEXT, flags(data, run_dir, *more, task=task, **changes), run_dir.parent)


def train(data: Path, run_dir: Path, *, ranks: int = 1, tp_size: int = 1, micro: int = 8, **changes: object) -> list[dict[str, Any]]:
    """Train on a topology and return the rows of metrics.jsonl. `micro`: samples of a micro-batch."""
    content = json.loads((ROOT / "ds_configs" / "zero3_cpu.json").read_text())
    content |= {"train_micro_batch_size_per_gpu": micro, "megatron": {"tensor_model_parallel_size": tp_size}}
    path = run_dir.parent / f"{run_dir.name}.json"
    path.write_text(json.dumps(content))
    words = flags(data, run_dir, "--deepspeed_config", path, **changes)
    for done in start_ranks(FINETUNE_TEXT, words, run_dir.parent, ranks).wait(120):
        assert done.returncode == 0, done.stderr
    return read_jsonl(run_dir / "metrics.jsonl")


def write_table(folder: Path, split: str, rows: Sequence[str], header: str = "text,label") -> Path:
    """Write SPLIT.csv and return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder
