"""Names of fairseq's blocks."""

import pytest

from recipes.interop.fairseq_blocks import block_entries
from recipes.interop.names import NameTable


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("self_attn.q_proj.weight", "attention.qkv.weight"),
        ("self_attn.k_proj.bias", "attention.qkv.bias"),
        ("self_attn.v_proj.bias", "attention.qkv.bias"),
        ("self_attn.out_proj.weight", "attention.proj.weight"),
        ("self_attn_layer_norm.bias", "attention_norm.bias"),
        ("fc1.weight", "ffn.fc1.weight"),
        ("fc2.bias", "ffn.fc2.bias"),
        ("final_layer_norm.weight", "ffn_norm.weight"),
    ],
)
def test_names_of_a_block(theirs: str, ours: str) -> None:
    table = NameTable(block_entries("encoder.", 4))
    assert table.our_name(f"encoder.layers.11.{theirs}") == f"trunk.encoder.layers.11.{ours}"
