"""Initial values of the parameters: their std is that of the settings, and they are a function of seed and name alone."""

import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.encoder import Encoder
from model.frontends.text import PAD
from model.heads import MaskedHead
from model.init import BLOCK, Init, ReplicatedLinear, UniformLinear
from model.parallel import Parallel, init_parallel
from model.student import Student
from tests.distributed import run_distributed
from tests.model.reference import TEXT, build_student, plain, text_frontend

WIDE = plain(hidden_size=64, ffn_hidden_size=96, normalize_before=True)
SIGMAS = 5.0


def parameters(student: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("init_std", [0.02, None])
def test_every_tensor_has_the_std_of_the_settings(parallel: Parallel, init_std: float | None) -> None:
    config = plain(hidden_size=64, ffn_hidden_size=96, normalize_before=True, init_std=init_std)
    for name, tensor in parameters(build_student(parallel, config, embedding_init_std=0.07)).items():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif "norm" in name:
            assert (tensor == 1).all(), name
        else:
            values = tensor
            std = 0.02 if init_std else 1 / math.sqrt(tensor.shape[1])
            if "frontend" in name:
                std, values = 0.07, tensor[: TEXT.vocab_size][torch.arange(min(len(tensor), TEXT.vocab_size)) != PAD]
            n = values.numel()
            assert float(values.std()) == pytest.approx(std, rel=SIGMAS / math.sqrt(2 * n)), name
            assert abs(float(values.mean())) < SIGMAS * std / math.sqrt(n), name


def test_defaults_are_the_published_ones() -> None:
    assert EncoderConfig().init_std == 0.02 and TEXT.__class__().embedding_init_std == 0.02


def test_pad_rows_and_rows_past_the_vocabulary_are_zero_and_no_other(parallel: Parallel) -> None:
    student = parameters(build_student(parallel))
    tokens, positions = student["trunk.frontend.tokens.weight"], student["trunk.frontend.positions.weight"]
    assert tokens.shape[0] == 128
    assert (~tokens.any(dim=1)).nonzero()[:, 0].tolist() == [PAD, *range(TEXT.vocab_size, 128)]
    assert (~positions.any(dim=1)).nonzero()[:, 0].tolist() == [PAD]


def test_every_name_gets_different_numbers(parallel: Parallel) -> None:
    student = parameters(build_student(parallel, WIDE))
    matrices = [t.flatten()[64:128] / t.std() for n, t in student.items() if t.dim() == 2 and "frontend" not in n]
    for i, first in enumerate(matrices):
        for second in matrices[i + 1 :]:
            assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.7


def test_same_seed_gives_the_same_tensors_whatever_torch_drew_before(parallel: Parallel) -> None:
    torch.manual_seed(1)
    first = parameters(build_student(parallel))
    torch.manual_seed(2)
    second = parameters(build_student(parallel))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=0, rtol=0, msg=name)


def test_another_seed_gives_other_tensors(parallel: Parallel) -> None:
    first, second = parameters(build_student(parallel, seed=1)), parameters(build_student(parallel, seed=2))
    matrices = [name for name, tensor in first.items() if tensor.dim() == 2]
    assert len(matrices) == 2 + 4 * 2 + 2
    assert not [name for name in matrices if torch.equal(first[name], second[name])]


def test_order_of_construction_changes_nothing(parallel: Parallel) -> None:
    config, init = plain(), Init(1)
    head = MaskedHead(config, init.at("head"))
    encoder = Encoder(config, init.at("encoder"), parallel, DropoutStream())
    frontend = text_frontend()(config, init.at("frontend"), parallel, DropoutStream())
    student = parameters(build_student(parallel, config))
    modules = {"head": head, "trunk.encoder": encoder, "trunk.frontend": frontend}
    apart = {f"{prefix}.{name}": tensor for prefix, module in modules.items() for name, tensor in parameters(module).items()}
    assert apart.keys() == student.keys()
    for name, tensor in apart.items():
        torch.testing.assert_close(student[name], tensor, atol=0, rtol=0, msg=name)


def students_of(positions: str) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, int | None]], int]:
    """Return TP 1's parameters, TP 2's with the dimension of their split, and this rank."""
    whole = build_student(init_parallel(1, "cpu"), positions=positions)
    parallel = init_parallel(2, "cpu")
    split = build_student(parallel, positions=positions)
    dims = {n: p.partition_dim if getattr(p, "tensor_model_parallel", False) else None for n, p in split.named_parameters()}
    return parameters(whole), {n: (t, dims[n]) for n, t in parameters(split).items()}, parallel.tp_rank


def test_initial_values_of_tp_2_are_slices_of_tp_1() -> None:
    expected_split = {"qkv.weight": 0, "qkv.bias": 0, "proj.weight": 1, "fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1}
    expected_split |= {"tokens.weight": 0, "relative_bias.weight": 0}
    for whole, split, rank in run_distributed(students_of, 2, "relative"):
        assert whole.keys() == split.keys()
        for name, (tensor, dim) in split.items():
            expected_dim = next((d for end, d in expected_split.items() if name.endswith(end)), None)
            assert dim == expected_dim, name
            expected = whole[name] if dim is None else whole[name].chunk(2, dim)[rank]
            torch.testing.assert_close(tensor, expected, atol=0, rtol=0, msg=name)


def test_relative_bias_is_split_by_heads_under_tp() -> None:
    for whole, split, rank in run_distributed(students_of, 2, "relative"):
        tensor, dim = split["trunk.frontend.relative_bias.weight"]
        full = whole["trunk.frontend.relative_bias.weight"]
        assert (tuple(full.shape), dim) == ((4, 2 * TEXT.max_positions - 1), 0)
        torch.testing.assert_close(tensor, full[2 * rank : 2 * rank + 2], atol=0, rtol=0)


def drawn(
    rows: int,
    columns: int,
    std: float | None = 1.0,
    dtype: torch.dtype = torch.float32,
    fill: str = "normal",
    *,
    share: tuple[int, int] = (0, 1),
    **part: int,
) -> Tensor:
    """Return the values that Init draws at one path. rows and columns are those of the slice."""
    tensor = torch.full((rows, columns), torch.nan, dtype=dtype)
    getattr(Init(1, share=share).at("x"), f"fill_{fill}")(tensor, std, **part)
    return tensor


@pytest.mark.parametrize("block", [BLOCK, 1, 7, 24, 60])
@pytest.mark.parametrize("std", [1.0, None])
@pytest.mark.parametrize("fill", ["normal", "truncated"])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_rank_draws_its_part_of_the_whole_for_any_number_of_ranks_and_slices(
    monkeypatch: pytest.MonkeyPatch, block: int, std: float | None, fill: str, parts: int
) -> None:
    """And writes nothing else."""
    monkeypatch.setattr("model.init.BLOCK", block)
    whole = drawn(12, 8, std, fill=fill)
    cuts = [(size, dim, rank) for size in (1, 2, 4) for dim in (0, 1) for rank in range(size)]
    for (size, dim, rank), number in itertools.product(cuts, range(parts)):
        expected = whole.chunk(size, dim)[rank]
        values = drawn(*expected.shape, std, fill=fill, dim=dim, rank=rank, size=size, share=(number, parts)).flatten()
        length = -(-expected.numel() // parts)
        first, stop = number * length, (number + 1) * length
        assert torch.equal(values[first:stop], expected.flatten()[first:stop])
        assert values[:first].isnan().all() and values[stop:].isnan().all()


def test_the_numbers_of_blocks_differ_and_their_beginning_does_not_depend_on_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.init.BLOCK", 8)
    assert drawn(50, 8).unique().numel() == 400
    assert torch.equal(drawn(50, 8)[:20], drawn(20, 8))


def test_small_tensors_have_the_values_of_earlier_releases() -> None:
    """Up to 262,144 values: those that numpy's generator draws one after the other."""
    digest = hashlib.sha256(b"1:.x").digest()
    generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
    assert BLOCK == 512 * 512
    assert torch.equal(drawn(512, 512).flatten(), torch.from_numpy(generator.standard_normal(512 * 512, dtype=np.float32)))


def test_a_rank_draws_the_blocks_that_it_needs_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.init.BLOCK", 16)
    made, generator = list[int](), Init._generator
    monkeypatch.setattr(Init, "_generator", lambda init, block: made.append(block) or generator(init, block))
    drawn(16, 16, share=(3, 8))
    assert made == [6, 7]
    drawn(16, 8, dim=1, rank=1, size=2, share=(3, 8))
    assert made == [6, 7, 6, 7], "of a matrix that is cut along its columns, the rows of the part"
    drawn(2, 2, share=(7, 8))
    assert made == [6, 7, 6, 7], "a rank whose part is empty"


def test_without_a_share_nothing_is_written_and_a_whole_one_has_everything() -> None:
    tensor = torch.full((4, 4), torch.nan)
    for init in (Init(1, share=None), Init(1, share=None).whole()):
        init.at("x").fill_normal(tensor, 1.0)
        init.at("x").fill_uniform(tensor, 0.0, 1.0)
    assert tensor.isnan().all()
    Init(1, share=(2, 8)).whole().at("x").fill_normal(tensor, 1.0)
    assert torch.equal(tensor, drawn(4, 4))


def test_bfloat16_parameters_are_the_rounded_float32_ones() -> None:
    torch.testing.assert_close(drawn(50, 4, 0.02, torch.bfloat16), drawn(50, 4, 0.02).bfloat16(), atol=0, rtol=0)


def test_paths_are_joined_name_by_name() -> None:
    assert Init(1).at("a", 2).at("b") == Init(1).at("a").at(2).at("b") != Init(1).at("a", 2, "c")


def test_replicated_linear_is_drawn_and_its_bias_is_zero() -> None:
    layer = ReplicatedLinear(30, 40, Init(1).at("x"), None)
    expected = torch.empty(40, 30)
    Init(1).at("x", "weight").fill_normal(expected, None)
    torch.testing.assert_close(layer.weight.data, expected, atol=0, rtol=0)
    assert not layer.bias.any()


def test_student_has_the_parameters_of_trunk_and_head_only(parallel: Parallel) -> None:
    student = Student(plain(), text_frontend(), Init(1), parallel, DropoutStream())
    assert {name.partition(".")[0] for name in parameters(student)} == {"trunk", "head"}
    assert not list(student.buffers()), "a buffer would be neither sharded nor saved"


def normal_cut_at_one() -> tuple[float, float]:
    """(std, share within half a std) of a standard normal variable between -1 and 1, by the trapezoid rule: 0.5396 and 0.561."""
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    density = torch.exp(-0.5 * x.square())
    density /= torch.trapezoid(density, x)
    inner = x.abs() <= 0.5
    return float(torch.trapezoid(density * x.square(), x).sqrt()), float(torch.trapezoid(density[inner], x[inner]))


def test_truncated_values_are_normal_values_cut_at_one_std() -> None:
    """BEiT: bounds +-0.02 and std .54 * .02; with clamping, a third of the values would lie on the bounds."""
    values = drawn(400, 300, 0.02, fill="truncated")
    std, inner = normal_cut_at_one()
    assert std == pytest.approx(0.5396, abs=1e-3)
    assert 0.0199 < float(values.abs().max()) <= 0.02 * (1 + 1e-6)
    assert float(values.std()) == pytest.approx(std * 0.02, rel=0.01)
    assert abs(float(values.mean())) < SIGMAS * 0.02 / math.sqrt(values.numel())
    assert float((values.abs() <= 0.01).float().mean()) == pytest.approx(inner, abs=0.008)
    assert values.unique().numel() > 110_000


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.25, 0.25)])
def test_uniform_values_fill_their_interval_evenly(low: float, high: float) -> None:
    tensor = torch.empty(40_000)
    Init(1).at("x").fill_uniform(tensor, low, high)
    assert low <= float(tensor.min()) < low + 1e-3 * (high - low) and high > float(tensor.max()) > high - 1e-3 * (high - low)
    assert torch.histc(tensor, 10, low, high).tolist() == pytest.approx([4000] * 10, abs=300)


def test_a_convolution_is_drawn_as_a_matrix_of_its_first_dimension() -> None:
    flat, kernel = torch.empty(6, 20), torch.empty(6, 4, 5)
    Init(1).at("x").fill_normal(flat, None)
    Init(1).at("x").fill_normal(kernel, None)
    torch.testing.assert_close(kernel.flatten(1), flat, atol=0, rtol=0)


@pytest.mark.parametrize("init_std", [0.02, None])
def test_beits_blocks_are_truncated_and_their_residual_matrices_scaled_by_depth(parallel: Parallel, init_std: float | None) -> None:
    """attn.proj and mlp.fc2 of block i, from 1, divided by sqrt(2 i); everything else as drawn."""
    config = plain(hidden_size=64, ffn_hidden_size=96, init_std=init_std, num_layers=3, truncated_init=True, depth_scaled_init=True)
    whole = parameters(Encoder(config, Init(1), parallel, DropoutStream()))
    for name, tensor in whole.items():
        if tensor.dim() != 2:
            continue
        depth = int(name.split(".")[1]) + 1
        bound = (0.02 if init_std else 1 / math.sqrt(tensor.shape[1])) / (
            math.sqrt(2 * depth) if name.endswith(("proj.weight", "fc2.weight")) else 1
        )
        assert 0.98 * bound < float(tensor.abs().max()) <= bound * (1 + 1e-6), name
        assert float(tensor.std()) == pytest.approx(normal_cut_at_one()[0] * bound, rel=0.05), name
    plain_start = parameters(Encoder(plain(hidden_size=64, ffn_hidden_size=96, init_std=init_std), Init(1), parallel, DropoutStream()))
    assert float(plain_start["layers.0.ffn.fc2.weight"].abs().max()) > 2 * float(whole["layers.0.ffn.fc2.weight"].abs().max())


def test_the_head_is_initialised_like_the_blocks_or_like_torch() -> None:
    wide = plain(hidden_size=64, head_layers=2, init_std=0.02)
    truncated = MaskedHead(plain(hidden_size=64, head_layers=2, init_std=0.02, truncated_init=True), Init(1)).layers
    blocks, torch_like = MaskedHead(wide, Init(1)).layers, MaskedHead(replace(wide, head_init="torch"), Init(1)).layers
    assert all(float(layer.weight.abs().max()) > 0.05 and not layer.bias.any() for layer in blocks)
    assert all(0.0199 < float(layer.weight.abs().max()) <= 0.02 * (1 + 1e-6) and not layer.bias.any() for layer in truncated)
    for layer in torch_like:
        bound = 1 / math.sqrt(layer.in_features)
        for tensor in (layer.weight, layer.bias):
            assert 0.9 * bound < float(tensor.abs().max()) <= bound
            assert float(tensor.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_uniform_linear_has_torchs_bounds() -> None:
    """The bounds are those of nn.Linear's own initial values, measured on many draws."""
    theirs, ours = nn.Linear(25, 4000), UniformLinear(25, 4000, Init(1).at("x"))
    for first, second in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert float(second.abs().max()) == pytest.approx(float(first.abs().max()), rel=2e-3)
