"""What differs between modalities in a replay: recipe, names, micro-batch. Runs nothing and compares nothing.

Shapes: B batch, S = N positions of a sample (tokens, frames, patches), T raw samples, M masked positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.batch import Batch, Masks
from model.frontends.text import PAD
from recipes.config import Recipe
from recipes.interop import fairseq_speech, fairseq_text, fairseq_vision, hf_speech, hf_text, hf_vision
from recipes.interop.names import NameTable, without_prefix
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base

State = dict[str, Tensor]

EVAL_INPUTS = {"tokens": "src_tokens", "source": "source", "img": "img"}
"""Inputs in eval_features.safetensors -> their names in steps.safetensors."""
PADDING = "padding_mask"
"""Input that is True at padding, over samples. Names with this prefix in eval_features.safetensors are over samples or frames."""


@dataclass(frozen=True)
class FairseqCase:
    """A modality of fairseq's cases."""

    recipe: Callable[[dict[str, Any], State], Recipe]
    """(configuration, initial student) -> our recipe."""
    names: Callable[[Recipe], NameTable]
    teacher_prefix: Callable[[Recipe], str]
    batch: Callable[[Recipe, State], Batch]
    """(recipe, a step's inputs under the names of steps.safetensors) -> micro-batch. Without a mask no position is masked."""


@dataclass(frozen=True)
class HfCase:
    """A modality of the Hugging Face cases."""

    recipe: Callable[[dict[str, Any]], Recipe]
    names: Callable[[Recipe], NameTable]
    state: Callable[[State], State]
    """The file's tensors -> the tensors of the name table."""
    inputs: Callable[[State], State]
    """An io file -> inputs under the names of fairseq's cases."""
    batch: Callable[[Recipe, State], Batch]
    not_saved: tuple[str, ...]
    """Prefixes of our names that may be missing in such a file, because no forward of that model reads them."""
    compared: Callable[[State], Any] = lambda io: slice(None)
    """(io file) -> the positions that are compared."""
    ends_normed: Callable[[dict[str, Any]], bool] = lambda config: True
    """(configuration) -> True if last_hidden_state is after the final norm."""


def text_batch(recipe: Recipe, inputs: State) -> Batch:
    """Make a batch from token ids. Padding is where the id is PAD."""
    source_BS = inputs["src_tokens"]
    clean_BS = inputs.get("target_tokens", source_BS)
    return _batch(
        source_BS, inputs.get("mask", torch.zeros_like(source_BS, dtype=torch.bool)), source_BS == PAD, (clean_BS, clean_BS == PAD)
    )


def speech_batch(recipe: Recipe, inputs: State) -> Batch:
    """Make a batch from waveforms with a mask over frames and a padding mask over samples. Padding is taken to be at the end."""
    source_BT, num_frames = inputs["source"], recipe.frontend.num_frames  # type: ignore[union-attr]
    frames, padding_BS = num_frames(source_BT.shape[1]), None
    if "padding_mask" in inputs and inputs["padding_mask"].any():
        own_frames_B = torch.tensor([num_frames(int(n)) for n in (~inputs["padding_mask"]).sum(dim=1)])
        padding_BS = torch.arange(frames) >= own_frames_B[:, None]
    mask_BS = inputs.get("mask", torch.zeros(len(source_BT), frames, dtype=torch.bool))
    return _batch(source_BT, mask_BS, padding_BS, (source_BT, padding_BS))


def vision_batch(recipe: Recipe, inputs: State) -> Batch:
    """Make a batch from images, with a mask over the grid of patches, flattened or not."""
    pixels = inputs["img"]
    num_patches = recipe.frontend.grid**2  # type: ignore[union-attr]
    mask_BN = inputs["mask"].flatten(1) if "mask" in inputs else torch.zeros(len(pixels), num_patches, dtype=torch.bool)
    return _batch(pixels, mask_BN, None, (pixels, None))


def _batch(inputs: Tensor, mask_BS: Tensor, padding_BS: Tensor | None, clean: tuple[Tensor, Tensor | None]) -> Batch:
    num_tokens = mask_BS.numel() if padding_BS is None else int((~padding_BS).sum())
    return Batch(inputs, clean[0], Masks.of(mask_BS), padding_BS, clean[1], num_tokens)


FAIRSEQ: dict[str, FairseqCase] = {
    "text": FairseqCase(
        lambda config, init: fairseq_text.text_recipe(text_base(), config, len(init[fairseq_text.TOKENS])),
        fairseq_text.text_names,
        lambda recipe: fairseq_text.TEACHER_PREFIX,
        text_batch,
    ),
    "audio": FairseqCase(
        lambda config, init: fairseq_speech.speech_recipe(speech_base(), config),
        fairseq_speech.speech_names,
        fairseq_speech.teacher_prefix,
        speech_batch,
    ),
    "vision": FairseqCase(
        lambda config, init: fairseq_vision.vision_recipe(vision_base(), config),
        fairseq_vision.vision_names,
        fairseq_vision.teacher_prefix,
        vision_batch,
    ),
}
"""By meta.json's modality."""


def _text_inputs(io: State) -> State:
    return {"src_tokens": io["in.input_ids"].masked_fill(~_real_tokens(io), PAD)}


def _real_tokens(io: State) -> Tensor:
    return io["in.attention_mask"].bool() if "in.attention_mask" in io else torch.ones_like(io["in.input_ids"], dtype=torch.bool)


def _speech_inputs(io: State) -> State:
    inputs = {"source": io["in.input_values"], "mask": io.get("in.mask_time_indices"), "padding_mask": None}
    if "in.attention_mask" in io:
        inputs["padding_mask"] = io["in.attention_mask"] == 0
    return {name: tensor for name, tensor in inputs.items() if tensor is not None}


def _vision_inputs(io: State) -> State:
    inputs = {"img": io["in.pixel_values"]}
    return inputs | {"mask": io["in.bool_masked_pos"].bool()} if "in.bool_masked_pos" in io else inputs


HF: dict[str, HfCase] = {
    "data2vec-text": HfCase(
        lambda config: hf_text.text_recipe(text_base(), config),
        hf_text.text_names,
        lambda state: hf_text.fold_token_types(without_prefix(state, hf_text.PREFIX)),
        _text_inputs,
        text_batch,
        not_saved=("head.",),
        compared=_real_tokens,  # Hugging Face does not zero padded embeddings
    ),
    "data2vec-audio": HfCase(
        lambda config: hf_speech.speech_recipe(speech_base(), config),
        hf_speech.speech_names,
        lambda state: without_prefix(state, hf_speech.PREFIX),
        _speech_inputs,
        speech_batch,
        not_saved=("head.", "trunk.frontend.mask_vector"),
    ),
    "data2vec-vision": HfCase(
        lambda config: hf_vision.vision_recipe(vision_base(), config),
        hf_vision.vision_names,
        lambda state: without_prefix(state, hf_vision.PREFIX),
        _vision_inputs,
        vision_batch,
        not_saved=("head.", "trunk.frontend.mask_vector", "trunk.encoder.final_norm."),
        ends_normed=lambda config: not config["use_mean_pooling"],
    ),
}
"""By config.json's model_type."""
