"""The student: predictions at the masked positions in their order, and gradients of all parameters in use."""

import pytest
import torch

from model.batch import Batch
from model.frontends.text import PAD
from model.parallel import Parallel
from model.student import take_masked
from tests.model.reference import MASK_ID, TEXT, bools, build_student, build_vision_student, make_batch, plain, stir, vision_batch

MASK_BS = bools("01100010", "00000000", "10000001")
PATCHES_BN = bools("110000000", "000010001")


def text_batch() -> Batch:
    """Three rows with every symbol of the vocabulary except <pad> and <mask>. The second row has no mask, two have padding."""
    ids_BS = (torch.arange(24).view(3, 8) % (MASK_ID - 1) + 2) % MASK_ID
    ids_BS[ids_BS == PAD] = 2
    padding_BS = bools("00010000", "00000000", "00000010")
    return make_batch(ids_BS.masked_fill(padding_BS, PAD), MASK_BS, padding_BS)


def test_take_masked_returns_rows_in_row_major_order() -> None:
    x_BSD = torch.arange(24.0).view(3, 4, 2)
    mask_BS = bools("0010", "1001", "0100")
    rows = take_masked(x_BSD, mask_BS.flatten().nonzero()[:, 0])
    assert rows[:, 0].tolist() == [4.0, 8.0, 14.0, 18.0]
    torch.testing.assert_close(rows, x_BSD[mask_BS], atol=0, rtol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head_layers", [0, 1, 2, 3])
def test_predictions_are_the_head_on_the_masked_positions_in_row_major_order(parallel: Parallel, head_layers: int, training: bool) -> None:
    student = build_student(parallel, plain(head_layers=head_layers)).train(training)
    stir(student)
    batch = text_batch()
    prediction_MD = student(batch).prediction_MD
    x_BSD = student.trunk(batch.inputs, batch.masks.mask_BS, batch.padding_mask_BS, keep_from=2).x_BND
    assert prediction_MD.shape == (batch.masks.num_masked, 16) == (5, 16)
    torch.testing.assert_close(prediction_MD, student.head(x_BSD)[MASK_BS])


def test_a_block_computes_at_the_masked_positions_in_training_and_at_all_in_eval_mode(parallel: Parallel) -> None:
    student, shapes = build_student(parallel), []
    student.trunk.encoder.layers[-1].register_forward_hook(lambda module, inputs, out: shapes.append(out.block_SBD.shape))
    student(text_batch())
    student.eval()(text_batch())
    assert shapes == [(5, 1, 16), (8, 3, 16)]


def test_student_reads_the_masked_input_and_not_the_clean_one(parallel: Parallel) -> None:
    student, batch = build_student(parallel), text_batch()
    other = make_batch(batch.clean_inputs.masked_fill(MASK_BS, 7), MASK_BS, batch.padding_mask_BS)
    expected_MD = student(batch).prediction_MD
    torch.testing.assert_close(student(other).prediction_MD, expected_MD, atol=0, rtol=0)
    unmasked = Batch(batch.clean_inputs, batch.clean_inputs, batch.masks, batch.padding_mask_BS, None, 22)
    assert not torch.allclose(student(unmasked).prediction_MD, expected_MD)


def test_no_masked_position_gives_no_prediction(parallel: Parallel) -> None:
    student = build_student(parallel)
    prediction_MD = student(make_batch(torch.full((2, 4), 5), bools("0000", "0000"))).prediction_MD
    assert prediction_MD.shape == (0, 16)
    prediction_MD.sum().backward()  # a micro-batch without masks still joins the collectives of backward
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("normalize_before", [False, True])
def test_gradient_reaches_every_parameter_and_row_in_use_and_no_other(parallel: Parallel, positions: str, normalize_before: bool) -> None:
    student = build_student(parallel, plain(normalize_before=normalize_before), positions=positions)
    stir(student)
    batch = text_batch()
    (student(batch).prediction_MD * torch.randn(5, 16, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        if name.endswith("frontend.tokens.weight"):
            read = set(batch.inputs[[0, 2]].flatten().tolist()) - {PAD}  # the row between has no masked position
            assert {i for i, row in enumerate(parameter.grad) if row.any()} == read
        elif name.endswith("positions.weight"):
            assert [i for i, row in enumerate(parameter.grad) if row.any()] == list(range(PAD + 1, PAD + 1 + 7))
        elif parameter.dim() == 2 and "relative_bias" not in name:
            assert parameter.grad.any(dim=1).all(), f"a row of {name} gets none"


def test_vocabulary_of_the_tests_is_covered() -> None:
    assert set(text_batch().clean_inputs.flatten().tolist()) | {MASK_ID} == set(range(TEXT.vocab_size))


def test_a_student_returns_its_embedding_without_masks_and_without_gradient(parallel: Parallel) -> None:
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    features_BND = student(batch).features_BND
    assert features_BND is not None and not features_BND.requires_grad
    torch.testing.assert_close(features_BND, student.trunk.frontend.patches(batch.inputs).detach(), atol=0, rtol=0)
    assert build_student(parallel)(text_batch()).features_BND is None, "the teacher of text reads other ids"
