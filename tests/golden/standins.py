"""Cases that were not dumped from fairseq, but made from a dumped case: another configuration, matching parameters and padding, and
the results of one rank as golden numbers. They show that a setting is translated, loaded and trained, with equal results on every
topology. They do not show that it is right: tests/model/ compares with plain torch."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class StandIn:
    """The differences from a golden case."""

    case: str
    config: dict[str, Any]
    parameters: Callable[[State], State] = lambda init: init
    steps: Callable[[State], State] = lambda steps: steps


def write(stand_in: StandIn, golden: Path, folder: Path) -> None:
    """Write the case's files. Their golden numbers are still those of the original case: replay with --dump, then call fill_in."""
    source = golden / stand_in.case
    meta = json.loads((source / "meta.json").read_text())
    meta["config"].update(stand_in.config)
    init = stand_in.parameters(load_file(source / "student_init.safetensors"))
    steps = stand_in.steps(load_file(source / "steps.safetensors"))
    for step in meta["steps"]:
        step["sample_size"] = int(steps[f"step{step['step']}.mask"].sum())
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps(meta))
    save_file(init, folder / "student_init.safetensors")
    save_file(init, folder / "student_final.safetensors")
    save_file(init, folder / "grad_step0.safetensors")
    save_file(_teacher(meta["config"], init), folder / "teacher_final.safetensors")
    save_file(steps, folder / "steps.safetensors")
    save_file(load_file(source / "eval_features.safetensors"), folder / "eval_features.safetensors")


def _teacher(config: dict[str, Any], init: State) -> State:
    """Return the teacher's tensors under names without prefix: of the encoder, or of the whole model if that is averaged."""
    prefix = "encoder." if config["ema_transformer_only"] or config.get("ema_layers_only") else ""
    return {name.removeprefix(prefix): tensor.clone() for name, tensor in init.items() if name.startswith(prefix)}


def fill_in(folder: Path, dump: Path) -> None:
    """Replace the case's golden numbers by those that a replay of `folder` has dumped."""
    computed = load_file(dump)
    for path in folder.glob("*.safetensors"):
        prefix = "" if path.stem in ("steps", "eval_features") else f"{path.stem}."
        tensors = {name: computed.get(prefix + name, tensor) for name, tensor in load_file(path).items()}
        if path.stem != "student_init":
            save_file(tensors, path)
    meta = json.loads((folder / "meta.json").read_text())
    for step in meta["steps"]:
        step["loss_sum"] *= float(computed[f"step{step['step']}.loss_relative"])
    (folder / "meta.json").write_text(json.dumps(meta))


def one_group_normed_convolution(init: State) -> State:
    """wav2vec 2.0's front-end: a norm after the first convolution only, one weight-normed positional convolution."""
    kept = {name: tensor for name, tensor in init.items() if not re.search(r"pos_conv|conv_layers\.\d\.2", name)}
    norm = "feature_extractor.conv_layers.0.2."
    kept |= {f"{norm}{leaf}": init[f"{norm}1.{leaf}"] for leaf in ("weight", "bias")}
    generator = torch.Generator().manual_seed(1)
    kept["encoder.pos_conv.0.weight_v"] = 0.1 * torch.randn(64, 4, 32, generator=generator)
    kept["encoder.pos_conv.0.weight_g"] = 0.3 + torch.rand(1, 1, 32, generator=generator)
    kept["encoder.pos_conv.0.bias"] = init["encoder.pos_conv.0.0.bias"]
    return kept


def padded_second_row(steps: State) -> State:
    """The last quarter of the second waveform is padding: zeros without a mask."""
    changed = dict(steps)
    for name, source_BT in steps.items():
        if not name.endswith(".source"):
            continue
        padding_BT = torch.zeros(source_BT.shape, dtype=torch.bool)
        padding_BT[1, 12_000:] = True
        mask_BS = steps[name.replace("source", "mask")].clone()
        mask_BS[1, 37:] = False  # 12000 samples are 37 frames
        rows = {"pred": torch.zeros(int(mask_BS.sum()), 64), "target": torch.zeros(int(mask_BS.sum()), 64)}
        new = {"source": source_BT.masked_fill(padding_BT, 0), "padding_mask": padding_BT, "mask": mask_BS, **rows}
        changed |= {name.replace("source", key): tensor for key, tensor in new.items()}
    return changed


def bias_per_layer_and_no_scale(init: State) -> State:
    """BEiT's layout for fine-tuning: a bias table in each block; blocks without layer scale."""
    table = init["encoder.rel_pos_bias.relative_position_bias_table"]
    kept = {name: tensor for name, tensor in init.items() if not re.search(r"rel_pos_bias|gamma", name)}
    return kept | {f"encoder.blocks.{n}.attn.relative_position_bias_table": table * (n + 1) / 4 for n in range(4)}


INSTANCE_NORM_OF_FFN = {"end_of_block_targets": False, "instance_norm_target_layer": True, "layer_norm_targets": False, "loss_beta": 0}

STAND_INS = {
    "audio_conv1_groupnorm": StandIn(
        "audio/recipe", {"extractor_mode": "default", "pos_conv_depth": 1, "conv_pos": 32}, one_group_normed_convolution
    ),
    "audio_padded": StandIn("audio/recipe", {}, steps=padded_second_row),
    "audio_prenorm_smoothl1": StandIn(
        "audio/recipe",
        {"layer_norm_first": True, "loss_beta": 1.0, "loss_scale": 0.5, "layer_norm_targets": True, "ema_layers_only": False},
    ),
    "audio_whole_model_averaged": StandIn("audio/recipe", {"ema_transformer_only": False, "ema_layers_only": False}),
    "vision_fc_instancenorm_mse": StandIn("vision/recipe", INSTANCE_NORM_OF_FFN),
    "vision_bias_per_layer": StandIn(
        "vision/recipe", {"shared_rel_pos_bias": False, "layer_scale_init_value": 0}, bias_per_layer_and_no_scale
    ),
    "vision_whole_model_averaged": StandIn("vision/recipe", {"ema_transformer_only": False}),
}
