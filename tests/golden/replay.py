"""Replays a golden case (fairseq or Hugging Face) through the classes that training uses, and compares every quantity.

python tests/golden/replay.py tests/golden/text/paper
deepspeed --num_accelerators 2 tests/golden/replay.py tests/golden/text/paper --tp 2
"""

import argparse
import json
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.batch import Batch
from model.frontends.text import PAD
from model.parallel import init_parallel
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import fairseq, hf
from recipes.text import text_base
from recipes.train import objective, shards
from recipes.train.ds_config import resolve
from recipes.train.engine import Engines, build_engines
from recipes.train.schedule import ema_decay
from recipes.train.world import join_world, leave_world

TOLERANCE = 1e-5


@dataclass
class Report:
    """Lines of the comparison and every replayed quantity."""

    failed: int = 0
    passed: int = 0
    quantities: dict[str, Tensor] = field(default_factory=dict)

    def compare(self, name: str, ours: Tensor, golden: Tensor) -> None:
        """One line: name, largest absolute difference, tolerance, verdict. NaN and a wrong shape fail."""
        self.quantities[name] = ours.detach().cpu().contiguous()
        difference = float((ours.double() - golden.double()).abs().max()) if ours.shape == golden.shape else float("inf")
        good = difference <= TOLERANCE
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        if dist.get_rank() == 0:
            print(f"{name:60} {difference:.3e} {TOLERANCE:.0e} {'ok' if good else 'FAIL'}")


def build(recipe: Recipe, tp_size: int) -> Engines:
    """Engines in fp32 with plain SGD, one micro-batch per rank and update, nothing clipped."""
    size = dist.get_world_size() // tp_size
    recipe = replace(recipe, run=replace(recipe.run, global_batch_size=size), optim=replace(recipe.optim, clip_norm=0.0))
    content = {"train_micro_batch_size_per_gpu": 1, "megatron": {"tensor_model_parallel_size": tp_size}}
    config = resolve(recipe, content, "replay", dist.get_world_size())
    return build_engines(recipe, config, init_parallel(tp_size, "cpu"), optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1))


def load_student(engines: Engines, ours: dict[str, Tensor]) -> None:
    """Write whole tensors into the student's shards; the teacher starts as its copy."""
    parameters = dict(shards.named_parameters(engines.student))
    missing = {n for n in parameters if n not in ours and not n.startswith("head.")}
    assert not missing and not set(ours) - set(parameters), f"missing {missing}, unknown {set(ours) - set(parameters)}"
    for name, tensor in ours.items():
        shards.scatter_full(parameters[name], tensor, engines.parallel, shards.master_shard(parameters[name]))
    shards.refresh_compute_weights(engines.student)
    engines.shadow.reset()


def my_rows(engines: Engines, tensor: Tensor) -> Tensor:
    """This DP rank's share of the rows; the first ranks take one more where they do not divide."""
    return tensor.tensor_split(engines.parallel.dp_size)[engines.parallel.dp_rank]


def text_batch(source_BS: Tensor, clean_BS: Tensor, mask_BS: Tensor) -> Batch:
    """A micro-batch from token ids; padding is wherever the id is PAD."""
    return Batch(
        source_BS, clean_BS, mask_BS, mask_BS.flatten().nonzero()[:, 0], source_BS == PAD, clean_BS == PAD, int((source_BS != PAD).sum())
    )


def gather_rows(engines: Engines, rows: Tensor) -> Tensor:
    """Rows of all DP ranks in order."""
    parts: list[Any] = [None] * engines.parallel.dp_size
    dist.all_gather_object(parts, rows.detach(), group=engines.parallel.dp_group)
    return torch.cat(parts)


def eval_features(engines: Engines, tokens_BS: Tensor) -> dict[str, Tensor]:
    """Outputs of every layer of the student in eval mode on unmasked tokens, under the golden names."""
    seen: dict[str, Tensor] = {}
    trunk = engines.student.module.trunk
    hooks = [trunk.frontend.register_forward_hook(lambda m, i, out: seen.update({"hidden.0": out[0]}))]
    for number, block in enumerate(trunk.encoder.layers):

        def record(module: Any, inputs: Any, out: Any, n: int = number) -> None:
            seen.update({f"ffn.{n}": out.ffn_SBD.transpose(0, 1), f"hidden.{n + 1}": out.block_SBD.transpose(0, 1)})

        hooks.append(block.register_forward_hook(record))
    hooks.append(trunk.register_forward_hook(lambda m, i, out: seen.update({"out": out[0]})))
    engines.student.eval()
    rows = my_rows(engines, tokens_BS)
    with torch.no_grad():
        engines.student(text_batch(rows, rows, torch.zeros_like(rows, dtype=torch.bool)))
    engines.student.train()
    for hook in hooks:
        hook.remove()
    return {name: gather_rows(engines, tensor) for name, tensor in seen.items()}


def whole(engines: Engines, shard_of: Any) -> dict[str, Tensor]:
    """Whole tensors by our names; shard_of(parameter) gives what to gather."""
    return {n: shards.gather_full(p, shard_of(p), engines.parallel) for n, p in shards.named_parameters(engines.student)}


def replay_step(engines: Engines, recipe: Recipe, batch: Batch, report: Report, *, golden: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Forward, backward and (by the caller) SGD of one golden step."""
    step = meta["step"]
    masked = torch.tensor(batch.num_masked)
    dist.all_reduce(masked, group=engines.parallel.dp_group)
    result = objective.forward(engines, batch, recipe.loss)
    report.compare(f"step{step}.pred", gather_rows(engines, result.prediction_MD), golden[f"step{step}.pred"])
    report.compare(f"step{step}.target", gather_rows(engines, result.target_MD), golden[f"step{step}.target"])
    loss = result.loss.detach().clone()
    dist.all_reduce(loss, group=engines.parallel.dp_group)
    report.compare(f"step{step}.loss_relative", loss / meta["loss_sum"], torch.tensor(1.0))
    assert int(masked) == meta["sample_size"]
    objective.backward(engines, result, int(masked))


def replay_fairseq(case: Path, tp_size: int, report: Report) -> None:
    """The protocol of the golden README: three updates with SGD, EMA before each forward but the first, one EMA at the end."""
    meta = json.loads((case / "meta.json").read_text())
    if meta["modality"] != "text":
        raise ConfigError(f"{case}: modality {meta['modality']!r} is not known to this version; it knows text")
    golden, init = load_file(case / "steps.safetensors"), load_file(case / "student_init.safetensors")
    table = init["encoder.sentence_encoder.embed_tokens.weight"]
    recipe = fairseq.text_recipe_from_fairseq(text_base(), meta["config"], len(table))
    heads = recipe.model.num_attention_heads
    engines = build(recipe, tp_size)
    load_student(engines, fairseq.from_fairseq_text(init, heads))

    def as_fairseq(ours: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        return fairseq.to_fairseq_text(ours, [n for n in names if not n.endswith("version")], heads, len(table))

    if (case / "eval_features.safetensors").exists():
        features = load_file(case / "eval_features.safetensors")
        for name, tensor in eval_features(engines, features.pop("tokens")).items():
            report.compare(name, tensor, features[name])
    for step in range(len(meta["steps"])):
        if step:
            engines.shadow.update(ema_decay(recipe.teacher, step))
        source, clean, mask = (my_rows(engines, golden[f"step{step}.{n}"]) for n in ("src_tokens", "target_tokens", "mask"))
        replay_step(engines, recipe, text_batch(source, clean, mask), report, golden=golden, meta=meta["steps"][step])
        if step == 0 and (case / "grad_step0.safetensors").exists():
            expected = load_file(case / "grad_step0.safetensors")
            for name, tensor in as_fairseq(whole(engines, shards.gradient_shard), list(expected)).items():
                report.compare(f"grad_step0.{name}", tensor, expected[name])
        engines.student.step()
    engines.shadow.update(ema_decay(recipe.teacher, len(meta["steps"])))
    compare_final(engines, case, as_fairseq, report)


def compare_final(engines: Engines, case: Path, as_fairseq: Any, report: Report) -> None:
    """Weights of student and teacher after the last update."""
    student = whole(engines, shards.master_shard)
    shadows = engines.shadow.shadows
    parameters = dict(shards.named_parameters(engines.student))
    teacher = {n: shards.gather_full(parameters[n], shard, engines.parallel) for n, shard in shadows.items()}
    for label, ours in (("student_final", student), ("teacher_final", teacher)):
        if (case / f"{label}.safetensors").exists():
            expected = load_file(case / f"{label}.safetensors")
            for name, tensor in as_fairseq(ours, list(expected)).items():
                report.compare(f"{label}.{name}", tensor, expected[name])


def replay_hf(case: Path, tp_size: int, report: Report) -> None:
    """Hidden states of a saved Hugging Face model at positions that are not padding."""
    config = json.loads((case / "config.json").read_text())
    recipe = hf.text_recipe_from_hf(text_base(), config)
    engines = build(recipe, tp_size)
    state = fairseq.from_fairseq_text(hf.fairseq_from_hf_text(load_file(case / "model.safetensors")), recipe.model.num_attention_heads)
    load_student(engines, state)
    for path in sorted(case.glob("io*.safetensors")):
        io = load_file(path)
        keep_BS = io["in.attention_mask"].bool()
        features = eval_features(engines, io["in.input_ids"].masked_fill(~keep_BS, PAD))
        for number in range(config["num_hidden_layers"] + 1):
            name = f"out.hidden_states.{number}"
            report.compare(name, features[f"hidden.{number}"][keep_BS], io[name][keep_BS])
        report.compare("out.last_hidden_state", features["out"][keep_BS], io["out.last_hidden_state"][keep_BS])


def main() -> int:
    """Exit code: 0 all within tolerance, 1 a failure, 2 a case that cannot be replayed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, help="a folder with meta.json (fairseq) or config.json (Hugging Face)")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel size; the other ranks split the rows")
    parser.add_argument("--dump", type=Path, help="write every replayed quantity to this safetensors file")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    report = Report()
    world = join_world()
    try:
        if (args.case / "meta.json").exists():
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
