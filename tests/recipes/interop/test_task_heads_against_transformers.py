"""A trunk with the head of a task computes what transformers' classes for the same task compute, from the same weights: outputs, loss, and
the gradient of every parameter. transformers is imported in tests only.

Where transformers' classes differ in form: speech is projected before the mean and here after it, which is the same up to rounding; the
norm of images after the mean is `pooler.layernorm` there.

Shapes: B batch, N positions of the samples themselves, C outputs, T raw samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Batch, Masks
from model.config import HeadConfig
from model.dropout import DropoutStream
from model.init import Init
from model.parallel import init_parallel
from model.task_network import TaskNetwork
from recipes.interop.hf_format import FORMATS
from recipes.interop.hf_text import fold_token_types
from recipes.interop.hf_vision import PREFIX as VISION_PREFIX
from recipes.interop.imported_recipe import template_of
from recipes.modalities.registry import modality_of
from tests.distributed import run_distributed

TOLERANCE = 1e-5
NUM_CLASSES, BLANK, IGNORED = 5, 0, -100
SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_labels": NUM_CLASSES}
TEXT = {**SIZES, "vocab_size": 100, "max_position_embeddings": 26, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
SPEECH = {
    **{**SIZES, "conv_dim": [16] * 7, "num_conv_pos_embedding_groups": 4, "vocab_size": NUM_CLASSES, "pad_token_id": BLANK},
    **{"classifier_proj_size": 20},
}
VISION = {**SIZES, "image_size": 32, "patch_size": 8, "use_shared_relative_position_bias": True, "layer_scale_init_value": 0.1}
REGRESSION = {**TEXT, "num_labels": 1}

ROBERTA = HeadConfig(reads="cls", hidden="tanh")
CTC = HeadConfig(reads="positions", hidden="none")
UTTERANCES = HeadConfig(reads="mean", hidden="linear", hidden_size=20)
IMAGES = HeadConfig(reads="mean", norm=True, hidden="none")
"""The heads that transformers' classes have. The epsilon of the norm is that of the blocks, as in Data2VecVisionPooler."""


@dataclass(frozen=True)
class Task:
    """A class of transformers for a task, its settings, and the same head in this project."""

    model: str
    settings: dict[str, Any]
    head: HeadConfig
    parameters: dict[str, str]
    """Modules of transformers' head -> modules of this project's."""


CTC_LOSS, CTC_NAMES = {"ctc_zero_infinity": True}, {"lm_head": "layers.0"}
ROBERTA_NAMES = {"classifier.dense": "layers.0", "classifier.out_proj": "layers.1"}
LOSSES = {"ctc_sum": ("sum", False), "ctc_mean": ("mean", False), "ctc_too_long": ("sum", True)}
"""Name -> (reduction, True if one transcript is longer than its frames)."""
TASKS = {
    "text": Task("Data2VecTextForSequenceClassification", TEXT, ROBERTA, ROBERTA_NAMES),
    "regression": Task("Data2VecTextForSequenceClassification", REGRESSION, ROBERTA, ROBERTA_NAMES),
    **{name: Task("Data2VecAudioForCTC", SPEECH | CTC_LOSS | {"ctc_loss_reduction": LOSSES[name][0]}, CTC, CTC_NAMES) for name in LOSSES},
    "utterances": Task(
        "Data2VecAudioForSequenceClassification", SPEECH, UTTERANCES, {"projector": "layers.0", "classifier": "layers.1"}
    ),
    "images": Task(
        "Data2VecVisionForImageClassification",
        VISION,
        IMAGES,
        {VISION_PREFIX + "pooler.layernorm": "norm", "classifier": "layers.0"},
    ),
}  # fmt: skip


def transformers_model(task: Task) -> Any:
    """Return transformers' model with random weights, large enough that each one matters."""
    import transformers

    kind = getattr(transformers, task.model)
    model = kind(kind.config_class(**task.settings)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.empty(parameter.shape).normal_(0, 0.1, generator=generator)
        # a norm's weights stay around 1; what is trained from 0, such as biases, is not 0
        parameter.data = noise + (parameter.data if "norm" in name.lower() else 0.0)
    return model


def converted(task: Task, state: dict[str, Tensor], modality: Any, recipe: Any) -> dict[str, Tensor]:
    """Return tensors of transformers' model, values or gradients, under the names of TaskNetwork."""
    head = {}
    for theirs, ours in task.parameters.items():
        head |= {f"head.{ours}.{leaf}": state.pop(f"{theirs}.{leaf}") for leaf in ("weight", "bias")}
    return head | modality.names(recipe).to_ours({name.removeprefix(modality.prefix): tensor for name, tensor in state.items()})


def text_inputs(recipe: Any) -> tuple[dict[str, Tensor], Batch]:
    ids = torch.randint(4, recipe.frontend.vocab_size, (3, 20), generator=torch.Generator().manual_seed(0))
    padding = torch.arange(20) >= torch.tensor([20, 13, 5])[:, None]
    ids[:, 0] = 0  # <s>
    ids = ids.masked_fill(padding, 1)
    return {"input_ids": ids, "attention_mask": (~padding).long()}, plain_batch(ids, padding)


def speech_inputs(recipe: Any) -> tuple[dict[str, Tensor], Batch]:
    lengths = torch.tensor([8000, 6111, 3000])
    padded = torch.arange(8000) >= lengths[:, None]
    waves = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)).masked_fill(padded, 0.0)
    frames = torch.tensor([recipe.frontend.num_frames(int(length)) for length in lengths])
    padding = torch.arange(int(frames.max())) >= frames[:, None]
    return {"input_values": waves, "attention_mask": (~padded).long()}, plain_batch(waves, padding)


def vision_inputs(recipe: Any) -> tuple[dict[str, Tensor], Batch]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixels}, plain_batch(pixels, None)


INPUTS: dict[str, Callable[[Any], tuple[dict[str, Tensor], Batch]]] = {
    "text": text_inputs,
    "speech": speech_inputs,
    "vision": vision_inputs,
}


def plain_batch(inputs: Tensor, padding_BN: Tensor | None) -> Batch:
    """Return a batch without masked positions."""
    nothing_BN = torch.zeros(len(inputs), 1, dtype=torch.bool)
    if padding_BN is not None:
        nothing_BN = torch.zeros_like(padding_BN)
    elif inputs.dim() == 4:
        nothing_BN = torch.zeros(len(inputs), 16, dtype=torch.bool)
    return Batch(inputs, inputs, Masks.of(nothing_BN), padding_BN, padding_BN, nothing_BN.numel())


def labels_and_loss(name: str, outputs: Tensor, padding_BN: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return random labels, and this project's outputs compared with them by torch's losses."""
    if name == "regression":
        numbers_B = torch.tensor([0.5, -1.0, 3.0])
        return numbers_B, F.mse_loss(outputs[:, 0], numbers_B)
    if name not in LOSSES:
        classes_B = torch.tensor([2, 0, 4])
        return classes_B, F.cross_entropy(outputs, classes_B)
    assert padding_BN is not None
    reduction, too_long = LOSSES[name]
    transcripts = [[1, 1, 2, 4, 3], [3], [2, 4] * (30 if too_long else 1)]
    longest, frames_B = max(map(len, transcripts)), (~padding_BN).sum(1)
    labels_BU = torch.tensor([[*one, *[IGNORED] * (longest - len(one))] for one in transcripts])
    lengths_B = torch.tensor([len(one) for one in transcripts])
    letters_BU = labels_BU.clamp(min=0)
    log_probs_NBC = outputs.log_softmax(-1).transpose(0, 1)
    loss = F.ctc_loss(log_probs_NBC, letters_BU, frames_B, lengths_B, BLANK, reduction, zero_infinity=True)
    return labels_BU, loss


def compare(name: str) -> dict[str, float]:
    """Return the largest differences of the outputs, of the loss (divided by the loss if that is above 1), and of each parameter's gradient
    (divided by the largest element of all gradients if that is above 1)."""
    task = TASKS[name]
    theirs = transformers_model(task)
    modality = FORMATS[theirs.config.model_type]
    recipe: Any = modality.recipe_of(template_of(modality.modality, None), theirs.config.to_dict())
    frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
    num_outputs = task.settings["num_labels"]
    ours = TaskNetwork(
        recipe.model, frontend, Init(3), init_parallel(1, "cpu"), DropoutStream(), head=task.head, num_outputs=num_outputs
    ).eval()
    weights = converted(task, fold_types(theirs.state_dict(), modality.prefix), modality, recipe)
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    unread = ("trunk.frontend.mask_vector", *task.head.unread_parts(recipe.model))
    assert not unexpected and all(one.startswith(unread) for one in missing), (missing, unexpected)

    inputs, batch = INPUTS[recipe.modality](recipe)
    outputs = ours(batch)
    labels, loss = labels_and_loss(name, outputs, batch.padding_mask_BS)
    found = theirs(**inputs, labels=labels)
    loss.backward()
    found.loss.backward()
    gradients = {one: p.grad for one, p in theirs.named_parameters() if p.grad is not None}
    expected = converted(task, gradients, modality, recipe)
    own = {one: p.grad for one, p in ours.named_parameters() if p.grad is not None}
    assert own.keys() - expected.keys() <= {"trunk.frontend.mask_vector"}, "nothing is masked, so its gradient is 0 here and None there"
    assert not any(own.pop(one).any() for one in own.keys() - expected.keys()) and own.keys() == expected.keys() and len(own) > 20
    largest = max(1.0, *(float(gradient.abs().max()) for gradient in own.values()))
    keep = slice(None) if batch.padding_mask_BS is None or outputs.dim() == 2 else ~batch.padding_mask_BS
    return {
        "outputs": distance(outputs[keep], found.logits[keep]),
        "loss": distance(loss, found.loss) / max(1.0, float(loss.detach())),
        **{f"gradient {one}": distance(own[one], expected[one]) / largest for one in own},
    }


def fold_types(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return transformers' state with the token types added to the tokens, as an import does."""
    folded = fold_token_types({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return {(prefix + name if prefix + name in state else name): tensor for name, tensor in folded.items()}


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def compare_all() -> dict[str, dict[str, float]]:
    return {name: compare(name) for name in TASKS}


@pytest.fixture(scope="module")
def differences() -> dict[str, dict[str, float]]:
    """The differences for each task. They are computed in one process, because the import of transformers takes a second."""
    (found,) = run_distributed(compare_all, 1)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_outputs_loss_and_gradients_are_those_of_transformers_within_1e_5(name: str, differences: dict[str, dict[str, float]]) -> None:
    assert {one: value for one, value in differences[name].items() if not value <= TOLERANCE} == {}
