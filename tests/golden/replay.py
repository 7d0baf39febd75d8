"""Replay a golden case (fairseq or Hugging Face) with the classes that training uses, and compare every quantity.

python tests/golden/replay.py tests/golden/text/paper
deepspeed --num_accelerators 2 tests/golden/replay.py tests/golden/audio/recipe --tp 2
python tests/golden/replay.py tests/golden/text/paper --loop     the updates by training's own train_step instead of the replay's loop
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from cases import EVAL_INPUTS, FAIRSEQ, HF, PADDING, FairseqCase, State
from compare import TOLERANCE, Report, amplified_quantities
from model_state import build, gather_rows, layer_outputs, load_student, my_rows, whole, whole_teacher
from safetensors.torch import load_file, save_file
from through_loop import replay_updates
from torch import Tensor

from model.batch import Batch
from recipes.cluster.world import World, join_world, leave_world
from recipes.config import Recipe
from recipes.engine import shards
from recipes.engine.update import backward
from recipes.engine.update import step as optimizer_step
from recipes.errors import ConfigError
from recipes.interop.names import NameTable
from recipes.objectives.data2vec import Data2Vec


def replay_fairseq(case: Path, tp_size: int, report: Report) -> None:
    """Run the protocol of the golden README: three updates with SGD, EMA before each forward except the first, one EMA at the end."""
    meta, modality = load_meta(case)
    report.amplified = amplified_quantities(meta)
    golden, init = load_file(case / "steps.safetensors"), load_file(case / "student_init.safetensors")
    recipe = modality.recipe(meta["config"], init)
    names = modality.names(recipe)
    objective = build(recipe, tp_size)
    load_student(objective, names.to_ours(init))
    if (case / "eval_features.safetensors").exists():
        compare_features(objective, recipe, modality, golden, report, load_file(case / "eval_features.safetensors"))
    gradients: State = {}
    for step, facts in enumerate(meta["steps"]):
        if step:
            objective.after_step(step)
        replay_step(objective, modality.batch(recipe, step_inputs(objective, golden, step)), report, golden=golden, facts=facts)
        gradients = gradients or whole(objective, shards.gradient_shard)
        optimizer_step(objective.student)
    objective.after_step(len(meta["steps"]))
    compare_end(case, objective, recipe, gradients, report)


def replay_through_loop(case: Path, tp_size: int, report: Report, world: World, micro_batch_size: int | None) -> None:
    """Run the same protocol by train_step, whose counters, EMA decay and statistics are compared too."""
    if not (case / "meta.json").exists():
        raise ConfigError(f"{case}: no meta.json, so no updates to replay; --loop is for cases of fairseq, such as tests/golden/text/paper")
    meta, modality = load_meta(case)
    report.amplified = amplified_quantities(meta)
    golden, init = load_file(case / "steps.safetensors"), load_file(case / "student_init.safetensors")
    loop = replay_updates(modality, meta, golden, init, report, world=world, tp_size=tp_size, micro=micro_batch_size)
    compare_end(case, loop[0], modality.recipe(meta["config"], init), loop[1], report)


def load_meta(case: Path) -> tuple[dict[str, Any], FairseqCase]:
    """Return meta.json and its modality. Raises: ConfigError."""
    meta = json.loads((case / "meta.json").read_text())
    if meta["modality"] not in FAIRSEQ:
        raise ConfigError(f"{case}: modality {meta['modality']!r} is not known to this version, which has {', '.join(FAIRSEQ)}")
    return meta, FAIRSEQ[meta["modality"]]


def compare_end(case: Path, objective: Data2Vec, recipe: Recipe, gradients: State, report: Report) -> None:
    """Compare the first gradient, and student and teacher after the last update, as far as the case has them."""
    meta, modality = load_meta(case)
    names = modality.names(recipe)
    if (case / "grad_step0.safetensors").exists():
        compare_state("grad_step0", names, gradients, load_file(case / "grad_step0.safetensors"), report)
    if (case / "teacher_final.safetensors").exists():
        teacher, prefix = load_file(case / "teacher_final.safetensors"), modality.teacher_prefix(recipe)
        compare_state("teacher_final", names, whole_teacher(objective), teacher, report, prefix=prefix)
    if (case / "student_final.safetensors").exists():
        init, student = load_file(case / "student_init.safetensors"), load_file(case / "student_final.safetensors")
        compare_state("student_final", names, whole(objective, shards.master_shard), student, report)
        for name in student.keys() & {n for n, norm in meta["steps"][0]["grad_norm"].items() if norm is None and names.our_name(n) is None}:
            report.compare(f"student_final.{name}", init[name], student[name])  # a parameter that no forward reads does not change


def step_inputs(objective: Data2Vec, golden: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """Return this rank's rows of a step's inputs."""
    prefix, results = f"step{step}.", ("pred", "target")
    inputs = {name.removeprefix(prefix): tensor for name, tensor in golden.items() if name.startswith(prefix)}
    return {name: my_rows(objective, tensor) for name, tensor in inputs.items() if name not in results}


def compare_features(
    objective: Data2Vec, recipe: Recipe, modality: FairseqCase, golden: dict[str, Tensor], report: Report, features: dict[str, Tensor]
) -> None:
    """Compare the outputs of every layer in eval mode for the first step's input without a mask."""
    inputs = {EVAL_INPUTS[name]: my_rows(objective, features.pop(name)) for name in EVAL_INPUTS if name in features}
    paddings = {name: features.pop(name) for name in list(features) if name.startswith(PADDING)}
    for mask in paddings.values():  # over samples; one over frames follows from it
        if "source" in inputs and mask.shape == golden["step0.source"].shape:
            inputs[PADDING] = my_rows(objective, mask)
    if f"step0.{PADDING}" in golden:
        inputs.setdefault(PADDING, my_rows(objective, golden[f"step0.{PADDING}"]))
    batch = modality.batch(recipe, inputs)
    ours = layer_outputs(objective, batch)
    for name, mask in paddings.items():
        if mask.shape[1:] == batch.masks.mask_BS.shape[1:]:
            padding_BS = torch.zeros_like(batch.masks.mask_BS) if batch.padding_mask_BS is None else batch.padding_mask_BS
            report.compare(name, gather_rows(objective, padding_BS), mask)
    for name in features:
        if name not in ours:
            raise ConfigError(
                f"eval_features.safetensors holds {name}, which no layer of this model gives; it gives {', '.join(sorted(ours))}"
            )
        report.compare(name, ours[name], features[name])


def compare_state(
    label: str, names: NameTable, ours: dict[str, Tensor], golden: dict[str, Tensor], report: Report, *, prefix: str = ""
) -> None:
    """Compare every golden tensor that has one of ours. Our teacher has no head."""
    own = {name: names.our_name(prefix + name) for name in golden}
    compared = [name for name, our_name in own.items() if our_name and (our_name in ours or not our_name.startswith("head."))]
    for name, tensor in names.to_theirs(ours, compared, prefix).items():
        report.compare(f"{label}.{name}", tensor, golden[name])


def replay_step(objective: Data2Vec, batch: Batch, report: Report, *, golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Run forward and backward of one golden step, and compare. The caller runs SGD."""
    step = facts["step"]
    device = objective.student.device
    masked = torch.tensor(objective.count(batch), device=device)
    dist.all_reduce(masked, group=objective.parallel.dp_group)
    result = objective.forward(batch.to(device), int(masked))
    report.compare(f"step{step}.pred", gather_rows(objective, result.prediction_MD), golden[f"step{step}.pred"])
    report.compare(f"step{step}.target", gather_rows(objective, result.target_MD), golden[f"step{step}.target"])
    loss = result.loss.detach().clone()
    dist.all_reduce(loss, group=objective.parallel.dp_group)
    report.compare(f"step{step}.loss_relative", loss / facts["loss_sum"], torch.tensor(1.0))
    assert int(masked) == facts["sample_size"]
    backward(objective.student, result.loss, int(masked), objective.parallel.dp_size)


def replay_hf(case: Path, tp_size: int, report: Report) -> None:
    """Compare the hidden states of a saved Hugging Face model at every position; for text at every position without padding."""
    config = json.loads((case / "config.json").read_text())
    if config.get("model_type") not in HF:
        raise ConfigError(f"{case}: model_type {config.get('model_type')!r} is not known to this version, which has {', '.join(HF)}")
    modality = HF[config["model_type"]]
    recipe = modality.recipe(config)
    objective = build(recipe, tp_size)
    load_student(objective, modality.names(recipe).to_ours(modality.state(load_file(case / "model.safetensors"))), modality.not_saved)
    for path in sorted(case.glob("io*.safetensors")):
        io = load_file(path)
        inputs = modality.inputs(io)
        ours = layer_outputs(objective, modality.batch(recipe, {name: my_rows(objective, tensor) for name, tensor in inputs.items()}))
        last = "out" if modality.ends_normed(config) else f"hidden.{recipe.model.num_layers}"
        expected = {f"hidden_states.{n}": f"hidden.{n}" for n in range(recipe.model.num_layers + 1)} | {"last_hidden_state": last}
        if "out.extract_features" in io:
            expected["extract_features"] = "extract_features"
        keep, file = modality.compared(io), "" if path.stem == "io" else f"{path.stem}."
        for name, own in expected.items():
            report.compare(f"{file}out.{name}", ours[own][keep], io[f"out.{name}"][keep])


def main() -> int:
    """Returns the exit code: 0 all within tolerance, 1 a failure, 2 a case that cannot be replayed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, help="a folder with meta.json (fairseq) or config.json (Hugging Face)")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel size; the other ranks split the rows")
    parser.add_argument("--loop", action="store_true", help="make the updates by train_step with its loader, EMA, guard and counters")
    parser.add_argument("--micro-batch-size", type=int, metavar="N", help="with --loop: rows of a micro-batch (default: a rank's share)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"largest absolute difference (default: {TOLERANCE:g}, for CPUs)"
    )
    parser.add_argument("--dump", type=Path, help="write every replayed quantity to this safetensors file")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.micro_batch_size is not None and (args.micro_batch_size < 1 or not args.loop):
        parser.error(f"--micro-batch-size {args.micro_batch_size}: a positive number of rows, with --loop")
    warnings.filterwarnings("ignore")
    torch.backends.cudnn.allow_tf32 = False  # float32 products of convolutions in float32
    report = Report(tolerance=args.tolerance)
    world = join_world()
    try:
        if args.loop:
            replay_through_loop(args.case, args.tp, report, world, args.micro_batch_size)
        elif (args.case / "meta.json").exists():
            replay_fairseq(args.case, args.tp, report)
        elif (args.case / "config.json").exists():
            replay_hf(args.case, args.tp, report)
        else:
            raise ConfigError(f"{args.case}: holds neither meta.json nor config.json; give a case folder such as tests/golden/text/paper")
        if args.dump and world.rank == 0:
            save_file(report.quantities, args.dump)
    except ConfigError as error:
        if world.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        leave_world()
    if world.rank == 0:
        print(f"{report.passed} passed, {report.failed} failed")
    return int(report.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
