"""The teacher: clean input, eval mode, no gradient; and the EMA of its weights compared with torch.lerp."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import TeacherConfig
from model.frontends.vision import VisionFrontend
from model.init import Init
from model.loss import LossConfig, regression_loss
from model.parallel import Parallel
from model.student import take_masked
from model.targets import average_targets
from model.teacher import ShadowWeights, Teacher
from tests.model.reference import VISION, bools, build_student, build_vision_student, make_batch, plain, text_frontend, vision_batch

SETTINGS = TeacherConfig(average_top_k_layers=2)
CONFIG = plain(num_layers=3, hidden_dropout=0.3, attention_dropout=0.3)
BATCH = make_batch(torch.arange(12).view(2, 6) % 14 + 4, bools("010010", "001100"), bools("000000", "100000"))


def build_teacher(parallel: Parallel, seed: int = 1) -> Teacher:
    return Teacher(CONFIG, SETTINGS, text_frontend(), Init(seed), parallel)


def test_initial_weights_of_the_teacher_are_the_students(parallel: Parallel) -> None:
    student, teacher = build_student(parallel, CONFIG), build_teacher(parallel)
    theirs = {name: p for name, p in student.named_parameters() if name.startswith("trunk.")}
    assert theirs.keys() == dict(teacher.named_parameters()).keys()
    for name, parameter in teacher.named_parameters():
        torch.testing.assert_close(parameter.data, theirs[name].data, atol=0, rtol=0, msg=name)


def test_target_at_the_start_is_the_students_own_features_without_masks(parallel: Parallel) -> None:
    student, teacher = build_student(parallel, CONFIG).eval(), build_teacher(parallel)
    outputs = student.trunk(BATCH.clean_inputs, None, BATCH.clean_padding_mask_BS, keep_from=1).layers
    torch.testing.assert_close(teacher(BATCH, None), average_targets(outputs, SETTINGS), atol=0, rtol=0)


def test_target_does_not_depend_on_the_mask(parallel: Parallel) -> None:
    teacher = build_teacher(parallel)
    other = make_batch(BATCH.clean_inputs, bools("111111", "000001"), BATCH.clean_padding_mask_BS)
    torch.testing.assert_close(teacher(other, None), teacher(BATCH, None), atol=0, rtol=0)


def test_the_teacher_reads_the_padding_of_the_clean_input(parallel: Parallel) -> None:
    teacher = build_teacher(parallel)
    other = replace(BATCH, padding_mask_BS=bools("000111", "011111"))
    torch.testing.assert_close(teacher(other, None), teacher(BATCH, None), atol=0, rtol=0)
    padded = replace(BATCH, clean_padding_mask_BS=bools("000111", "011111"))
    assert not torch.allclose(teacher(padded, None), teacher(BATCH, None))


def test_target_averages_the_last_k_blocks(parallel: Parallel) -> None:
    """With K 2 of three blocks, the first block matters only through the later blocks: its FFN output is not used."""
    teacher, seen = build_teacher(parallel), []
    for block in teacher.trunk.encoder.layers:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(teacher(BATCH, None), average_targets(seen[1:], SETTINGS), atol=0, rtol=0)


def test_teacher_stays_in_eval_mode_after_train(parallel: Parallel) -> None:
    """If a teacher dropped activations, its targets would change from call to call."""
    teacher = build_teacher(parallel)
    assert not any(module.training for module in teacher.modules())
    expected = teacher(BATCH, None)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    torch.testing.assert_close(teacher(BATCH, None), expected, atol=0, rtol=0)


def test_no_gradient_reaches_the_teacher(parallel: Parallel) -> None:
    student, teacher = build_student(parallel, CONFIG), build_teacher(parallel)
    target_BSD = teacher(BATCH, None)
    assert target_BSD.dtype == torch.float32 and not target_BSD.requires_grad
    regression_loss(student(BATCH).prediction_MD, take_masked(target_BSD, BATCH.masks.masked_index_M), LossConfig()).backward()
    assert not [name for name, p in teacher.named_parameters() if p.requires_grad or p.grad is not None]
    assert all(p.grad is not None for p in student.parameters())


def build_vision_teacher(parallel: Parallel, **changes: Any) -> Teacher:
    """Build a teacher with another seed than the student, so that the result shows whose embedding is used."""
    return Teacher(CONFIG, replace(SETTINGS, **changes), partial(VisionFrontend, VISION), Init(2), parallel)


@pytest.mark.parametrize("shares", ["features", "frontend"])
def test_a_sharing_teacher_reads_the_students_features_and_not_the_inputs(parallel: Parallel, shares: str) -> None:
    student, teacher = build_vision_student(parallel, CONFIG), build_vision_teacher(parallel, shares=shares)
    batch = vision_batch(bools("110000000", "000010001"))
    features_BND = student(batch).features_BND
    target_BND = teacher(batch, features_BND)
    assert target_BND.shape == (2, 9, 16)
    torch.testing.assert_close(teacher(vision_batch(batch.masks.mask_BS, seed=9), features_BND), target_BND, atol=0, rtol=0)
    assert not torch.allclose(teacher(batch, features_BND + 1.0), target_BND)
    assert not torch.allclose(teacher(batch, None), target_BND), "its own embedding is different"


def test_a_teacher_that_shares_nothing_reads_the_inputs_itself(parallel: Parallel) -> None:
    student, teacher = build_vision_student(parallel, CONFIG), build_vision_teacher(parallel, shares="nothing")
    batch = vision_batch(bools("110000000", "000010001"))
    torch.testing.assert_close(teacher(batch, student(batch).features_BND), teacher(batch, None), atol=0, rtol=0)
    assert not torch.allclose(teacher(vision_batch(batch.masks.mask_BS, seed=9), None), teacher(batch, None))


def test_the_teacher_drops_no_layer_and_no_path(parallel: Parallel) -> None:
    config = plain(num_layers=3, layerdrop=0.9, drop_path=0.9)
    dropping, whole = (Teacher(c, SETTINGS, text_frontend(), Init(1), parallel) for c in (config, plain(num_layers=3)))
    torch.testing.assert_close(dropping(BATCH, None), whole(BATCH, None), atol=0, rtol=0)


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(5, 3, generator=generator).to(dtype) for name in ("embedding", "block.0", "block.1")}


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(0, 1000))
def test_update_is_torch_lerp_exactly(decay: float, seed: int) -> None:
    masters, shards = tensors(seed), tensors(seed + 1)
    shadow = ShadowWeights(masters, shards, copied=set())
    for name in masters:
        shadow.shadows[name].copy_(tensors(seed + 2)[name])
    before = {name: tensor.clone() for name, tensor in shadow.shadows.items()}
    shadow.update(decay)
    for name, tensor in shadow.shadows.items():
        torch.testing.assert_close(tensor, torch.lerp(before[name], masters[name], 1 - decay), atol=0, rtol=0)
        torch.testing.assert_close(tensor, decay * before[name] + (1 - decay) * masters[name], atol=1e-6, rtol=1e-5)


def test_sequence_of_updates_follows_the_masters_as_they_move() -> None:
    masters, shards = tensors(0), tensors(1)
    shadow = ShadowWeights(masters, shards, copied=set())
    expected = {name: tensor.double() for name, tensor in masters.items()}
    for step, decay in enumerate([0.9, 0.99, 0.5, 0.0, 0.999]):
        for name, tensor in tensors(step + 10).items():
            masters[name].copy_(tensor)
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
        shadow.update(decay)
        for name, tensor in shards.items():
            torch.testing.assert_close(tensor, expected[name].float(), atol=1e-6, rtol=1e-5)


def test_copied_names_are_copied_and_the_others_averaged() -> None:
    masters, shards = tensors(0), tensors(1)
    shadow = ShadowWeights(masters, shards, copied={"embedding"})
    start = {name: tensor.clone() for name, tensor in masters.items()}
    for tensor in masters.values():
        tensor += 1.0
    shadow.update(0.75)
    torch.testing.assert_close(shards["embedding"], start["embedding"] + 1.0, atol=0, rtol=0)
    for name in ("block.0", "block.1"):
        torch.testing.assert_close(shards[name], start[name] + 0.25)


@pytest.mark.parametrize("copied", [set(), {"embedding", "block.0", "block.1"}], ids=["none", "all"])
def test_nothing_or_everything_may_be_copied(copied: set[str]) -> None:
    masters, shards = tensors(0), tensors(1)
    shadow = ShadowWeights(masters, shards, copied)
    for tensor in masters.values():
        tensor += 1.0
    shadow.update(0.5)
    for name, tensor in shards.items():
        torch.testing.assert_close(tensor, masters[name] - (0.0 if copied else 0.5))


def test_shadow_of_float32_shards_is_the_shard_itself() -> None:
    shards = tensors(1)
    shadow = ShadowWeights(tensors(0), shards, copied=set())
    assert all(shadow.shadows[name].data_ptr() == shard.data_ptr() for name, shard in shards.items())


def test_shadow_never_shares_memory_with_the_student() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        masters = tensors(0)
        shadow = ShadowWeights(masters, tensors(1, dtype), copied={"embedding"})
        before = {name: tensor.clone() for name, tensor in shadow.shadows.items()}
        for tensor in masters.values():
            tensor += 1.0
        for name, tensor in shadow.shadows.items():
            torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


def test_bfloat16_shards_are_the_rounded_shadow_after_every_step() -> None:
    masters, shards = tensors(0), tensors(1, torch.bfloat16)
    shadow = ShadowWeights(masters, shards, copied={"embedding"})
    for step in range(4):
        for name, shard in shards.items():
            assert (shadow.shadows[name].dtype, shard.dtype) == (torch.float32, torch.bfloat16)
            torch.testing.assert_close(shard, shadow.shadows[name].bfloat16(), atol=0, rtol=0)
        for tensor in masters.values():
            tensor += 0.37
        shadow.update(0.6 + 0.1 * step)


def test_shadow_keeps_increments_that_bfloat16_would_lose() -> None:
    masters, shards = {"w": torch.ones(4)}, {"w": torch.ones(4, dtype=torch.bfloat16)}
    shadow = ShadowWeights(masters, shards, copied=set())
    masters["w"].fill_(2.0)
    rounded = torch.ones(4, dtype=torch.bfloat16)
    for _ in range(100):
        shadow.update(0.9999)
        rounded.lerp_(masters["w"].bfloat16(), 1 - 0.9999)
    expected = 2 - 0.9999**100
    torch.testing.assert_close(shadow.shadows["w"], torch.full((4,), expected), atol=1e-5, rtol=0)
    assert (rounded == 1).all(), "an average in bfloat16 never changes"
    assert (shards["w"] > 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reset_sets_the_teacher_to_the_student_again(dtype: torch.dtype) -> None:
    masters, shards = tensors(0), tensors(1, dtype)
    shadow = ShadowWeights(masters, shards, copied={"embedding"})
    for name, tensor in masters.items():
        torch.testing.assert_close(shards[name], tensor.to(dtype), atol=0, rtol=0)  # already at construction
        tensor += 1.0
    shadow.update(0.9)
    shadow.reset()
    for name, tensor in masters.items():
        torch.testing.assert_close(shadow.shadows[name], tensor, atol=0, rtol=0)
        torch.testing.assert_close(shards[name], tensor.to(dtype), atol=0, rtol=0)


def test_publish_rounds_a_shadow_that_was_written_from_outside() -> None:
    shards = tensors(1, torch.bfloat16)
    shadow = ShadowWeights(tensors(0), shards, copied=set())
    shadow.shadows["block.0"].fill_(0.7)
    shadow.publish()
    assert (shards["block.0"] == torch.tensor(0.7).bfloat16()).all()


def test_other_shapes_or_names_are_refused() -> None:
    masters = tensors(0)
    with pytest.raises(AssertionError, match="partitioned differently"):
        ShadowWeights(masters, {**tensors(1), "block.1": torch.zeros(15)}, copied=set())
    with pytest.raises(AssertionError):
        ShadowWeights(masters, {"block.0": torch.zeros(5, 3)}, copied=set())
    with pytest.raises(AssertionError):
        ShadowWeights(masters, tensors(1), copied={"unknown"})
