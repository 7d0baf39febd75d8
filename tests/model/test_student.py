"""The student: predictions at the masked positions in their order, the shape of the head, gradient everywhere it should be."""

import pytest
import torch
import torch.nn.functional as F

from model.batch import Batch
from model.frontends.text import PAD
from model.init import Init
from model.parallel import Parallel
from model.student import RegressionHead, Trunk, take_masked
from tests.model.reference import MASK_ID, TEXT, VISION, bools, build_student, build_vision_student, make_batch, plain, stir, vision_batch

MASK_BS = bools("01100010", "00000000", "10000001")


def text_batch() -> Batch:
    """Three rows with every symbol of the vocabulary but <pad> and <mask>; the second row has no mask, two have padding."""
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


@pytest.mark.parametrize("head_layers", [0, 1, 2, 3])
def test_predictions_are_the_head_on_the_masked_positions_in_row_major_order(parallel: Parallel, head_layers: int) -> None:
    student = build_student(parallel, plain(head_layers=head_layers))
    stir(student)
    batch = text_batch()
    prediction_MD = student(batch).prediction_MD
    x_BSD = student.trunk(batch.inputs, batch.mask_BS, batch.padding_mask_BS, keep_from=2).x_BND
    assert prediction_MD.shape == (batch.num_masked, 16) == (5, 16)
    torch.testing.assert_close(prediction_MD, student.head(x_BSD)[MASK_BS])


def test_student_reads_the_masked_input_and_not_the_clean_one(parallel: Parallel) -> None:
    student, batch = build_student(parallel), text_batch()
    other = make_batch(batch.clean_inputs.masked_fill(MASK_BS, 7), MASK_BS, batch.padding_mask_BS)
    expected_MD = student(batch).prediction_MD
    torch.testing.assert_close(student(other).prediction_MD, expected_MD, atol=0, rtol=0)
    unmasked = Batch(batch.clean_inputs, batch.clean_inputs, MASK_BS, batch.masked_index_M, batch.padding_mask_BS, None, 22)
    assert not torch.allclose(student(unmasked).prediction_MD, expected_MD)


def test_no_masked_position_gives_no_prediction(parallel: Parallel) -> None:
    student = build_student(parallel)
    prediction_MD = student(make_batch(torch.full((2, 4), 5), bools("0000", "0000"))).prediction_MD
    assert prediction_MD.shape == (0, 16)
    prediction_MD.sum().backward()  # a micro-batch without masks still joins the collectives of backward
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


@pytest.mark.parametrize(
    ("head_layers", "shapes"),
    [(0, []), (1, [(16, 16)]), (2, [(32, 16), (16, 32)]), (3, [(32, 16), (32, 32), (16, 32)])],
)
def test_head_widens_to_2d_and_ends_at_d(head_layers: int, shapes: list[tuple[int, int]]) -> None:
    head = RegressionHead(plain(head_layers=head_layers), Init(1))
    assert [tuple(layer.weight.shape) for layer in head.layers] == shapes
    assert all(layer.bias is not None for layer in head.layers)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_head_has_the_activation_between_its_layers_only(activation: str) -> None:
    head = RegressionHead(plain(head_layers=3, activation=activation), Init(1))
    stir(head)
    x_MD = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    act = F.gelu if activation == "gelu" else F.relu
    first, second, third = head.layers
    expected = act(act(x_MD @ first.weight.T + first.bias) @ second.weight.T + second.bias) @ third.weight.T + third.bias
    torch.testing.assert_close(head(x_MD), expected)
    one = RegressionHead(plain(head_layers=1, activation=activation), Init(1))
    torch.testing.assert_close(one(x_MD), x_MD @ one.layers[0].weight.T)


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


def test_trunk_passes_mask_and_padding_to_front_end_and_encoder(parallel: Parallel) -> None:
    trunk: Trunk = build_student(parallel).trunk
    padding_BS = bools("0011")
    ids_BS = torch.tensor([[5, 6, PAD, PAD]])
    padded = trunk(ids_BS, None, padding_BS, keep_from=1)
    short = trunk(ids_BS[:, :2], None, None, keep_from=1)
    assert len(padded.layers) == 1 and padded.features_BND is None
    torch.testing.assert_close(padded.x_BND[:, :2], short.x_BND, atol=1e-5, rtol=1e-5)


def test_vocabulary_of_the_tests_is_covered() -> None:
    assert set(text_batch().clean_inputs.flatten().tolist()) | {MASK_ID} == set(range(TEXT.vocab_size))


def test_no_head_is_the_identity() -> None:
    head, x_MD = RegressionHead(plain(head_layers=0), Init(1)), torch.ones(3, 16)
    assert head(x_MD) is x_MD and not list(head.parameters())


PATCHES_BN = bools("110000000", "000010001")


def test_prefix_tokens_are_attended_to_and_then_dropped(parallel: Parallel) -> None:
    """Nine patches behind a CLS vector: ten positions in the encoder, nine in everything that comes out."""
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    stir(student)
    seen = []
    student.trunk.encoder.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    out = student.trunk(batch.inputs, PATCHES_BN, None, keep_from=0)
    (entered_BSD, (whole_BSD, layers)), N = seen[0], VISION.grid**2
    assert entered_BSD.shape == (2, N + 1, 16) and out.x_BND.shape == (2, N, 16) and len(out.layers) == 2
    torch.testing.assert_close(out.x_BND, whole_BSD[:, 1:], atol=0, rtol=0)
    for own, layer in zip(out.layers, layers, strict=True):
        torch.testing.assert_close(own.ffn_SBD, layer.ffn_SBD[1:], atol=0, rtol=0)
        torch.testing.assert_close(own.block_SBD, layer.block_SBD[1:], atol=0, rtol=0)
    torch.testing.assert_close(student(batch).prediction_MD, student.head(out.x_BND)[PATCHES_BN])
    student.trunk.frontend.cls_vector.data += 1.0
    assert not torch.allclose(student.trunk(batch.inputs, PATCHES_BN, None, keep_from=2).x_BND, out.x_BND), "the patches attend to it"


def test_a_student_hands_on_its_embedding_without_masks_and_without_gradient(parallel: Parallel) -> None:
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    features_BND = student(batch).features_BND
    assert features_BND is not None and not features_BND.requires_grad
    torch.testing.assert_close(features_BND, student.trunk.frontend.patches(batch.inputs).detach(), atol=0, rtol=0)
    assert build_student(parallel)(text_batch()).features_BND is None, "text's teacher reads other ids"


def test_a_trunk_reads_features_in_place_of_inputs(parallel: Parallel) -> None:
    trunk, batch = build_vision_student(parallel).trunk, vision_batch(PATCHES_BN)
    features_BND = trunk.frontend(batch.inputs, None, None).features_BND
    expected_BND = trunk(batch.inputs, None, None, keep_from=2).x_BND
    read_BND = trunk(torch.full_like(batch.inputs, torch.nan), None, None, keep_from=2, features_BND=features_BND).x_BND
    torch.testing.assert_close(read_BND, expected_BND, atol=0, rtol=0)
