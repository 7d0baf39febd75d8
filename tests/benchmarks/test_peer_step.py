"""The peer is an honest one: with the same weights its loss and its gradient are ours, in all modalities."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.parallel import having_a_world, parallel_alone
from peer_step import PeerStep
from plain_step import PlainStep
from recipes.config import Recipe
from recipes.objectives.data2vec import regress
from recipes.settings import apply_overrides
from step_recipe import build_recipe, random_batch

LENGTH = {"text_tiny": 24, "text_base": 16, "speech_tiny": 1, "speech_base": 1, "vision_tiny": 0, "vision_base": 0}
NARROW = [f"model.{size}" for size in ("num_layers=3", "hidden_size=32", "ffn_hidden_size=64", "num_attention_heads=4")]
NARROW.append("teacher.average_top_k_layers=2")
NARROW_FRONTEND = {
    "text": ["frontend.vocab_size=99"],
    "speech": ["frontend.conv_dim=8", "frontend.pos_conv_groups=2"],
    "vision": ["frontend.image_size=32", "frontend.patch_size=8", "mask.num_patches=9", "mask.min_block=2", "mask.max_block=16"],
}
RENAMED = {
    **{".encoder.layers.": ".layers.", ".encoder.final_norm.": ".final_norm.", "head.layers.": "head.", ".ffn.fc": ".fc"},
    **{".attention_scale.weight": ".attention_branch.scale", ".ffn_scale.weight": ".ffn_branch.scale"},
    **{".relative_bias.weight": ".relative_bias", ".frontend.positions.layers.": ".frontend.positions."},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only wait for each other, on a machine that runs other tests."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


def peer_weights(ours: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """Return the weights of our student under the peer's names, and in its order."""
    heads, found = recipe.model.num_attention_heads, dict[str, Tensor]()
    for name, weight in ours.named_parameters():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if ".extractor.layers." in name:
            *_, number, part, kind = name.split(".")
            name = f"trunk.frontend.{'convs' if part == 'conv' else 'conv_norms'}.{number}.{kind}"
        if ".attention.qkv." in name:  # rows are (head, q/k/v, width) in ours, (q/k/v, head, width) in the peer
            weight = weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        if name.endswith("query_value_bias.weight"):
            place = name.removesuffix("query_value_bias.weight")
            found |= {f"{place}q_bias": weight[:, 0].flatten(), f"{place}v_bias": weight[:, 1].flatten()}
            continue
        if recipe.modality == "text" and name.endswith("tokens.weight"):
            weight = weight[: recipe.frontend.vocab_size]  # type: ignore[attr-defined]
        if recipe.modality == "vision" and name.endswith("relative_bias"):
            weight = weight.T
        found[name] = weight
    return found


def small(name: str) -> tuple[Recipe, Any]:
    """Return a shipped recipe in a small size without dropout, and a batch."""
    recipe = build_recipe(name, batch=2, length=LENGTH[name], dropout="0")
    recipe = apply_overrides(recipe, [*NARROW, *NARROW_FRONTEND[recipe.modality]])
    return recipe, random_batch(recipe, 2, LENGTH[name])


@pytest.mark.parametrize("name", LENGTH)
def test_loss_and_gradient_are_ours_to_1e_5_with_our_weights(name: str) -> None:
    recipe, batch = small(name)
    with having_a_world():
        plain = PlainStep(recipe, parallel_alone())
        student = plain.student
        with torch.no_grad():
            for weight in student.parameters():
                weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
            for own, weight in zip(plain.teacher.trunk.parameters(), student.trunk.parameters(), strict=True):
                own.copy_(weight)
        peer = PeerStep(recipe)
        peer.student.load_state_dict(peer_weights(student, recipe))
        peer.teacher.load_state_dict(peer.student.trunk.state_dict())
        ours = regress(student, plain.teacher, batch, recipe.loss).loss / batch.masks.num_masked
        ours.backward()
    theirs = peer.loss(batch)
    theirs.backward()
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-5)
    norms = [torch.nn.utils.get_total_norm([p.grad for p in one.parameters() if p.grad is not None]) for one in (student, peer.student)]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-4)


@pytest.mark.parametrize("name", ["text_tiny", "speech_base", "vision_base"])
def test_an_update_moves_the_student_and_lets_the_teacher_follow(name: str) -> None:
    recipe, batch = small(name)
    peer = PeerStep(recipe)
    before = {name: weight.clone() for name, weight in peer.teacher.state_dict().items()}
    losses = [peer.run(batch).item() for _ in range(5)]
    assert losses[-1] < losses[0]
    moved, student = peer.teacher.state_dict(), peer.student.trunk.state_dict()
    followed = [name for name, weight in moved.items() if not torch.equal(weight, before[name])]
    assert len(followed) > len(moved) / 2 and any(not torch.equal(moved[name], student[name]) for name in followed)


def test_in_bf16_the_loss_is_near_that_in_fp32() -> None:
    recipe, batch = small("text_tiny")
    torch.manual_seed(1)
    exact = PeerStep(recipe)
    rounded = PeerStep(recipe, dtype=torch.bfloat16)
    rounded.student.load_state_dict(exact.student.state_dict())
    rounded.teacher.load_state_dict(exact.teacher.state_dict())
    assert rounded.loss(batch).item() == pytest.approx(exact.loss(batch).item(), rel=2e-2)
