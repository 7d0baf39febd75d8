"""Check that a change keeps every bit: record the results of a checkout, and compare two records.

python -m tests.soak.same_bits record --tree OTHER_CHECKOUT --out before
python -m tests.soak.same_bits record --out after --resume before
python -m tests.soak.same_bits compare before after

A record holds 30 updates of each modality's tiny recipe with dropouts, fp32 and bf16, on one rank, data-parallel 2 and tensor-parallel 2
(metrics and the hashes of the last checkpoint), and the dump of every golden case. `--resume` also continues the record's runs from
their checkpoint of step 20. Checkouts share no process: each is run by its own launch scripts.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS, STOPPED_AT = 30, 20
TIMINGS = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes"}
COMMON = {
    **{"run.max_steps": STEPS, "run.log_steps": 1, "run.save_steps": STOPPED_AT, "run.eval_steps": 10, "run.eval_samples": 32},
    **{"run.global_batch_size": 8, "optim.warmup_steps": 10},
    **{f"model.{name}": 0.1 for name in ("hidden_dropout", "attention_dropout", "activation_dropout")},
}
RUNS: dict[str, dict[str, Any]] = {
    "text": {"data.sequence_length": 64},
    "speech": {"model.block.layerdrop": 0.2, "data.group_size": 4, "data.max_seconds": 2.0},
    "vision": {"model.block.drop_path": 0.25},
}
PRECISIONS = {"fp32": "zero3_cpu", "bf16": "zero3_cpu_bf16"}
TOPOLOGIES = {"one": (1, 1), "dp2": (2, 1), "tp2": (2, 2)}
"""Ranks and tensor-parallel size."""
CASES = ("text/paper", "audio/recipe", "vision/recipe", "hf/text", "hf/audio", "hf/vision_shared")
CASE_WORLDS = {"tp1": (1, 1), "tp2": (2, 2), "dp2": (2, 1)}
TIMEOUT_SECONDS = 900.0


def run(tree: Path, words: list[str], ranks: int) -> str:
    """Run a script of `tree` on `ranks` ranks and return its output. Raises: RuntimeError if it fails."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *words], cwd=tree, env=env, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def train(tree: Path, name: str, run_dir: Path) -> None:
    """Run one entry of the record, `name` = modality.precision.topology, from the state of `run_dir`. Data that are prepared there are
    passed by --data, since another checkout has its samples elsewhere."""
    modality, precision, topology = name.split(".")
    ranks, tp_size = TOPOLOGIES[topology]
    content = json.loads((tree / "ds_configs" / f"{PRECISIONS[precision]}.json").read_text())
    config = run_dir.parent / f"{name}.json"
    config.write_text(json.dumps(content | {"megatron": {"tensor_model_parallel_size": tp_size}}))
    settings = [part for key, value in (COMMON | RUNS[modality]).items() for part in ("--set", f"{key}={value}")]
    data = ["--data", str(run_dir / "prepared")] if (run_dir / "prepared").exists() else []
    run(tree, [f"launch/pretrain_{modality}.py", "--deepspeed_config", str(config), "--run-dir", str(run_dir), *data, *settings], ranks)


def stop_at(run_dir: Path, step: int) -> None:
    """Change a finished run to the state of a run that was killed after `step`."""
    for folder in (run_dir / "checkpoints").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    (run_dir / "checkpoints" / "latest").write_text(f"step_{step:08d}\n")


def summary(run_dir: Path) -> dict[str, Any]:
    """Return what must be equal of a run: its metrics without times, and the hashes in its last checkpoint."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]
    manifest = json.loads((run_dir / "checkpoints" / f"step_{STEPS:08d}" / "manifest.json").read_text())
    return {"metrics": rows, "files": [file["header_sha256"] for file in manifest["files"]]}


def replay(tree: Path, out: Path, case: str, world: str) -> dict[str, str]:
    """Return printed lines and the hash of every quantity of a golden case. An older checkout cannot dump all of them."""
    from safetensors.torch import load_file

    ranks, tp_size = CASE_WORLDS[world]
    file = out / f"{case.replace('/', '.')}.{world}.safetensors"
    words = ["tests/golden/replay.py", f"tests/golden/{case}", "--tp", str(tp_size)]
    try:
        printed = run(tree, [*words, "--dump", str(file)], ranks)
    except RuntimeError as error:
        if "share memory" not in str(error):
            raise
        return {"printed": _result_lines(run(tree, words, ranks))}
    hashes = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in load_file(file).items()}
    return hashes | {"printed": _result_lines(printed)}


def _result_lines(printed: str) -> str:
    """Return the lines of quantities, without the output of libraries."""
    return "\n".join(line for line in printed.splitlines() if line.endswith((" ok", " FAIL", " failed")))


def record(tree: Path, out: Path, resume: Path | None, jobs: int, match: str) -> None:
    """Write out/record.json and its runs."""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{m}.{p}.{t}" for m in RUNS for p in PRECISIONS for t in TOPOLOGIES if match in f"{m}.{p}.{t}"]

    def fresh(name: str) -> tuple[str, Any]:
        shutil.rmtree(out / name, ignore_errors=True)
        train(tree, name, out / name)
        return f"run {name}", summary(out / name)

    def resumed(name: str) -> tuple[str, Any]:
        assert resume is not None
        folder = out / f"{name}.resumed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(resume / name, folder)
        stop_at(folder, STOPPED_AT)
        train(tree, name, folder)
        return f"run {name}", summary(folder)

    def golden(case: str, world: str) -> tuple[str, Any]:
        return f"golden {case} {world}", replay(tree, out, case, world)

    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(fresh, name) for name in names]
        again = [pool.submit(resumed, name) for name in names] if resume else []
        tasks += [pool.submit(golden, case, world) for case in CASES for world in CASE_WORLDS if match in f"golden {case} {world}"]
        content = dict(task.result() for task in tasks)
        content |= {f"{name} resumed": found for name, found in (task.result() for task in again)}
    (out / "record.json").write_text(json.dumps(content, indent=1))
    print(f"{len(content)} recorded in {out / 'record.json'}")


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each entry of both records that differs. A resumed run must equal the whole run."""
    for name, found in after.items():
        wanted = before.get(name.removesuffix(" resumed"))
        if wanted is None or wanted == found:
            continue
        keys = wanted.keys() & found.keys()  # not all: an older checkout cannot dump every case
        shown = [key for key in sorted(keys) if wanted[key] != found[key]]
        if shown or not keys:
            yield f"{name}: {', '.join(shown[:5]) or 'other quantities'}"


def main() -> int:
    """Returns the exit code: 1 if two records differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run everything and write a record")
    recording.add_argument("--tree", type=Path, default=ROOT, help="checkout to run (default: this one)")
    recording.add_argument("--out", type=Path, required=True)
    recording.add_argument("--resume", type=Path, metavar="RECORD", help="also continue that record's runs from step 20")
    recording.add_argument("--jobs", type=int, default=2)
    recording.add_argument("--match", default="", help="only what has this in its name: text.fp32.one, golden")
    comparing = commands.add_parser("compare", help="two records, bit for bit")
    comparing.add_argument("records", type=Path, nargs=2)
    args = parser.parse_args()
    if args.command == "record":
        record(args.tree.resolve(), args.out.resolve(), args.resume and args.resume.resolve(), args.jobs, args.match)
        return 0
    before, after = (json.loads((folder / "record.json").read_text()) for folder in args.records)
    found = list(differences(before, after))
    both = [name for name in after if name.removesuffix(" resumed") in before]
    print("\n".join([*found, f"{len(both)} compared, {len(found)} differ"]))
    return int(bool(found) or not both)


if __name__ == "__main__":
    sys.exit(main())
