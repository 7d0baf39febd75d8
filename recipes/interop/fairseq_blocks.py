"""Parameter names of fairseq's Transformer blocks, which are the same for text and speech (transformer_layer.py, wav2vec2.py)."""

from recipes.interop.names import Entry, head_by_head, renamed

PARTS = {
    "self_attn.out_proj": "attention.proj",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "ffn.fc1",
    "fc2": "ffn.fc2",
    "final_layer_norm": "ffn_norm",
}


def block_entries(prefix: str, num_heads: int) -> list[Entry]:
    """Return the entries of a NameTable that convert the tensors of fairseq's Transformer blocks to this project's. `prefix`: what
    stands before `layers.` in fairseq's names. `num_heads`: heads of the attention."""
    theirs, ours = prefix + "layers.{n}.", "trunk.encoder.layers.{n}."
    queries_keys_values = tuple(f"{theirs}self_attn.{letter}_proj.{{leaf}}" for letter in "qkv")
    fused = head_by_head(queries_keys_values, ours + "attention.qkv.{leaf}", num_heads)
    return [fused, *renamed(theirs, ours, PARTS)]
