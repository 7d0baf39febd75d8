"""FLOPs of a sample compared, part by part, with torch's count of the built networks; FLOPs of a step with the formula of product.md.

The networks and batches are on torch's device "meta", which has shapes and no numbers, so the widths are those of the recipes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_backward_flop

from model.batch import Batch
from model.config import HeadConfig, Shares
from model.dropout import DropoutStream
from model.init import Init
from model.parallel import having_a_world, parallel_alone
from model.student import Student
from model.teacher import Teacher
from recipes.catalog import RECIPES
from recipes.config import Recipe
from recipes.masked_config import MaskedConfig
from recipes.modalities.registry import MODALITIES
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.supervised import network_builder
from recipes.plan.flops import sample_flops, step_flops
from recipes.supervised_config import SPECIAL_LETTERS, ClassifyConfig, CtcConfig, RegressConfig, SupervisedConfig
from tests.launching import tiny_recipe

META, UNSET = torch.device("meta"), Init(1, share=None)
NUM_SAMPLES, MOST_LAYERS = 8, 2
PARTS = {"projections": r"\.attention\.(qkv|proj)$", "feed-forward": r"\.ffn\.fc[12]$", "head": r"\.head\.layers\.\d+$"}
"""Part -> names of the layers that multiply. Torch counts a backward at such modules correctly, at those around them not always."""
NAMES = [(modality, name) for modality, recipes in RECIPES.items() for name in recipes]


def grouped_backward(*args: Any, out_shape: Any, **settings: Any) -> int:
    """Return torch's count of a convolution's backward, without its error: it counts the gradient of the weights as if groups = 1."""
    *others, groups, (for_input, for_weights, _) = args
    of_input = conv_backward_flop(*others, groups, (for_input, False, False), out_val=out_shape)
    return int(of_input + conv_backward_flop(*others, groups, (False, for_weights, False), out_val=out_shape) // groups)


class Counted:
    """FLOPs of each part of a network for one sample, as torch counts them."""

    def __init__(self) -> None:
        # a fused kernel would compute the scores twice
        self._counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: grouped_backward})

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count in this block."""
        with self._counter, sdpa_kernel(SDPBackend.MATH):
            yield

    def parts(self) -> dict[str, float]:
        """Return the FLOPs so far. What no other part counts belongs to the front-end."""
        counts = self._counter.get_flop_counts()
        found: dict[str, float] = {
            part: sum(sum(ops.values()) for name, ops in counts.items() if re.search(pattern, name)) for part, pattern in PARTS.items()
        }
        found["attention"] = counts["Global"].get(torch.ops.aten.bmm, 0)
        found["front-end"] = sum(counts["Global"].values()) - sum(found.values())
        return {part: flops / NUM_SAMPLES for part, flops in found.items()}


def trained_parts(network: Any, *args: Any) -> dict[str, float]:
    """Return the FLOPs of forward and backward of a network for one sample."""
    counted = Counted()
    with counted.counting():
        outputs = network.eval()(*args)  # eval mode: no dropout, and the last block computes at every position
        forward = counted.parts()
        (outputs if isinstance(outputs, Tensor) else outputs[0]).sum().backward()
        both = counted.parts()
    return forward | {f"{part} backward": both[part] - forward[part] for part in both}


def shallow(modality: str, name: str, **changes: Any) -> Recipe:
    """Return a recipe with its own widths and few layers, so that a small part shows in the sum."""
    recipe = replace(RECIPES[modality][name](), **changes)
    layers = min(recipe.model.num_layers, MOST_LAYERS)
    top = min(recipe.teacher.average_top_k_layers, layers)
    return replace(recipe, model=replace(recipe.model, num_layers=layers), teacher=replace(recipe.teacher, average_top_k_layers=top))


def batch_of(recipe: Recipe) -> Batch:
    """Return samples of the longest length, with the expected number of masked positions."""
    rate = getattr(recipe.data, "sample_rate", 1)
    batch = MODALITIES[recipe.modality].random_batch(recipe, NUM_SAMPLES, recipe.data.longest_sample // rate, np.random.default_rng(0))
    positions = recipe.frontend.tokens_per_sample(recipe.data.longest_sample)
    masked = torch.arange(round(NUM_SAMPLES * positions * recipe.mask.expected_share(positions)))
    return replace(batch, masks=replace(batch.masks, masked_index_M=masked)).to(META)


def pretraining_parts(recipe: Recipe) -> dict[str, float]:
    """Return the FLOPs of the student, and of a teacher if there is one, for one sample, as torch counts them."""
    batch, build, counted = batch_of(recipe), MODALITIES[recipe.modality].build_frontend(recipe), Counted()
    assert isinstance(recipe.objective, MaskedConfig)
    num_outputs = recipe.objective.num_outputs(recipe.model, recipe.frontend)
    with having_a_world(), META:
        student = Student(recipe.model, build, UNSET, parallel_alone(), DropoutStream(), num_outputs=num_outputs)
        if not recipe.objective.num_teachers:
            return trained_parts(student, batch)
        teacher = Teacher(recipe.model, recipe.teacher, build, UNSET, parallel_alone())
        features = student.trunk.frontend(batch.inputs, None, None).features_BND
        student_parts = trained_parts(student, batch)
        with counted.counting(), torch.no_grad():
            teacher(batch, features)
    return student_parts | {f"teacher {part}": flops for part, flops in counted.parts().items() if part != "head"}


def deviations(recipe: Recipe, counted: dict[str, float]) -> dict[str, float]:
    """Return, of each part and of the sum, by how much the arithmetic differs from torch's count, as a share."""
    flops = sample_flops(recipe)
    assert flops.keys() == counted.keys()
    pairs = {part: (flops[part], counted[part]) for part in flops} | {"sum": (sum(flops.values()), sum(counted.values()))}
    return {part: abs(ours - theirs) / max(1.0, theirs) for part, (ours, theirs) in pairs.items()}


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_each_part_of_each_recipe_is_what_torch_counts_within_1_percent(modality: str, name: str) -> None:
    """Only the convolutions over a waveform, and the mean number of masked positions, are not exact."""
    recipe = shallow(modality, name)
    found = deviations(recipe, pretraining_parts(recipe))
    assert max(found.values()) < 0.01 and found["sum"] < 0.002, found


@pytest.mark.parametrize(
    ("modality", "shares"), [("speech", "nothing"), ("speech", "features"), ("vision", "features"), ("text", "frontend")]
)
def test_a_teacher_computes_what_it_does_not_share(modality: str, shares: Shares) -> None:
    recipe = shallow(modality, f"{modality}_tiny")
    recipe = replace(recipe, teacher=replace(recipe.teacher, shares=shares))
    found = deviations(recipe, pretraining_parts(recipe))
    assert max(found.values()) < 0.01, found


LABELS = tuple(f"label {number}" for number in range(1000))
LETTERS = (*SPECIAL_LETTERS, *"abcdefghijklmnopqrstuvwxyz'")
MEAN = HeadConfig(reads="mean", hidden="linear", hidden_size=256)
NORMED = HeadConfig(reads="mean", norm=True, hidden="none")
CTC = HeadConfig(reads="positions", hidden="none")


@pytest.mark.parametrize(
    ("modality", "name", "objective"),
    [
        ("text", "text_base", ClassifyConfig(labels=LABELS[:3])),
        ("text", "text_tiny", RegressConfig(frozen="trunk")),
        ("speech", "speech_base", CtcConfig(head=CTC, frozen="features", alphabet=LETTERS)),
        ("speech", "speech_tiny", CtcConfig(head=CTC, frozen="trunk", alphabet=LETTERS)),
        ("speech", "speech_tiny", ClassifyConfig(head=MEAN, labels=LABELS[:35])),
        ("vision", "vision_base", ClassifyConfig(head=NORMED, labels=LABELS)),
        ("vision", "vision_tiny", ClassifyConfig(head=NORMED, labels=LABELS, frozen="trunk")),
    ],
)
def test_each_part_of_fine_tuning_is_what_torch_counts_within_1_percent(modality: str, name: str, objective: SupervisedConfig) -> None:
    recipe = shallow(modality, name, objective=objective)
    batch = batch_of(recipe)
    with having_a_world(), META:
        network = network_builder(recipe, UNSET)(parallel=parallel_alone(), stream=DropoutStream())
        found = deviations(recipe, trained_parts(network, batch, objective.trains("trunk")))
    assert max(found.values()) < 0.01 and found["head"] == found["head backward"] == 0, found


def test_the_parts_are_of_the_longest_sample_unless_a_length_is_given() -> None:
    recipe = RECIPES["speech"]["speech_base"]()
    assert sample_flops(recipe) == sample_flops(recipe, 20 * 16_000)
    assert sample_flops(recipe, 10 * 16_000)["attention"] == 12 * 4 * 768 * 499**2


def test_labels_that_are_still_unknown_cost_nothing() -> None:
    recipe = replace(RECIPES["text"]["text_base"](), objective=ClassifyConfig())
    assert sample_flops(recipe)["head"] == 2 * 768 * 768


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES["text"].items() if recipe().objective.num_teachers])
def test_a_layers_forward_is_the_products_formula(name: str) -> None:
    """product.md: a layer's forward is B*T*(24d^2 + 4Td), a step is four forwards; the head's are three. Every recipe's inner size is
    4d, and its head is d -> 2d -> d."""
    recipe, batch = RECIPES["text"][name](), 8
    length, width = recipe.data.sequence_length, recipe.model.hidden_size  # type: ignore[union-attr]
    assert recipe.model.ffn_hidden_size == 4 * width
    forward = recipe.model.num_layers * batch * length * (24 * width**2 + 4 * length * width)
    head = batch * length * recipe.mask.expected_share(length) * 8 * width**2
    assert step_flops(recipe, batch * length, batch) == round(4 * forward + 3 * head)


def test_attention_is_counted_at_the_samples_mean_length() -> None:
    """Padded text: the mean length follows from the tokens, not from the maximum length."""
    recipe = RECIPES["text"]["text_base"]()
    assert step_flops(recipe, 8 * 100, 8) == round(8 * sum(sample_flops(recipe, 100).values())) < step_flops(recipe, 800, 1)
    low, middle, high = (step_flops(recipe, tokens, 8) for tokens in (800, 804, 808))
    assert low < middle < high, "a mean need not be a whole number"
    assert step_flops(recipe, 0, 0) == 0, "a rank without samples has no length to count"


def test_prefix_tokens_and_the_front_end_count() -> None:
    """Vision: 196 patches are 197 positions. Each patch costs one product with its 768 numbers in the student's forward, one in its
    backward and one in the teacher."""
    recipe = RECIPES["vision"]["vision_base"]()
    blocks = 4 * sum(recipe.model.forward_flops(197).values())
    assert step_flops(recipe, 4 * 196, 4) == 4 * (blocks + 3 * 196 * 2 * 768 * 768 + 3 * 120 * 2 * 768 * 768)


def test_flops_follow_a_narrower_inner_layer() -> None:
    """Two matrices of d x f: each unit less of f saves 4d per token and layer."""
    wide, narrow = tiny_recipe(), tiny_recipe(model__ffn_hidden_size=31)
    assert step_flops(wide, 10, 1) - step_flops(narrow, 10, 1) == 4 * 10 * 4 * wide.model.hidden_size


def test_an_objective_without_teacher_and_head_costs_three_forwards() -> None:
    recipe = replace(RECIPES["text"]["text_base"](), objective=ObjectiveConfig())
    assert step_flops(recipe, 100, 1) == 3 * sum(recipe.model.forward_flops(100).values())
