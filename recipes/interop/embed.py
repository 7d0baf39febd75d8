"""The embed command: which network, on which data, which layer, and where the embeddings are written. The computation on one rank is in
embedding.py."""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cluster.environment import quiet_libraries
from recipes.cluster.launch_info import release
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF
from recipes.interop.embedding_file import WRITERS, Embeddings, check_out, write_embeddings
from recipes.interop.layers import BATCH, LAYER_HELP, POOL_HELP, POOLS, Layer, check_choice, read_layer
from recipes.modalities.registry import modality_of
from recipes.settings import dotted, recipe_to_dict
from recipes.values import name_argument, path_argument, positive_count

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from recipes.cluster.world import World
    from recipes.data.items import Items
    from recipes.interop.embedding import EmbeddedPart
    from recipes.interop.encoder import TrainedEncoder
    from recipes.interop.model_source import ModelSource

DIGITS = 12
"""Digits of a digest that a message can name."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags of launch/embed.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--from", dest="source", type=name_argument, required=True, help="run dir, checkpoint folder, Hugging Face directory or hub name")
    add("--data", type=name_argument, help="file, folder or hub name (default: the shipped sample); a .txt has an item on each line")
    add("--out", type=path_argument, required=True, metavar="FILE", help=f"{' or '.join(WRITERS)}: the file to write")
    add("--layer", default="last", help=LAYER_HELP + " (default: last)")
    add("--pool", choices=POOLS, default="mean", help=POOL_HELP + " (default: mean)")
    add("--weights", choices=list(KIND_OF), default="student", help="which of the two networks (default: student; the teacher is its EMA)")
    add("--split", help="part of the data: train, valid, test or the name of a folder (default: all)")
    add("--column", help="column of a table with the texts, the paths or the bytes (default: the one of the run)")
    add("--batch-size", type=positive_count, default=BATCH, help="items of a batch on one rank; recordings share one only if equally long")
    add("--force", action="store_true", help="replace --out if it exists")
    add("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_embed(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Compute the embeddings of all items on all ranks, write them on rank 0, print what was left out, and return the exit code, 0. `say`
    prints a line. Raises: ConfigError if the flags, the network or the data cannot be used, or if no item can be decoded."""
    layer = read_layer(args.layer)
    check_out(args.out, args.force)
    quiet_libraries()
    from recipes.cluster.world import join_world, leave_world
    from recipes.interop.embedding import embed_part
    from recipes.interop.encoder import build_encoder

    world = join_world(say)
    log = say if world.rank == 0 else _silent
    try:
        source = _same_source(world, args)
        items = _same_items(world, args, source, layer)
        recipe = source.recipe
        log(f"{items.name}: {len(items):,} items; {recipe.name}, {args.weights}, of {source.name}")
        for note in (items.note, *source.notes):
            if note:
                log(note)
        encoder = world.on_all_ranks(lambda: build_encoder(source, world.device))
        _check_same_weights(world, encoder)
        part = world.on_all_ranks(
            lambda: embed_part(encoder, items, world.rank, world.size, layer=layer, pool=args.pool, batch_size=args.batch_size, log=log)
        )
        about = {
            **{"source": source.name, "step": source.step, "weights": args.weights, "recipe": recipe.name, "modality": recipe.modality},
            **{"layer": layer, "pool": args.pool, "data": items.name, "split": args.split or "all", "release": release()},
            **{"num_items": len(items), "num_empty": items.num_empty, "notes": list(source.notes)},
        }
        parts = _gathered(world, part)
        world.on_rank_zero(lambda: _write(args.out, parts, about, say))
    finally:
        leave_world()
    return 0


def _same_source(world: "World", args: argparse.Namespace) -> "ModelSource":
    """Return the network that --from names, the same on all ranks: rank 0 decides which is the newest checkpoint of a run that goes on.
    Raises: ConfigError on all ranks. A collective."""
    from recipes.cluster.world_check import check_same
    from recipes.interop.model_source import find_source

    found = list["ModelSource"]()

    def find() -> str:
        found.append(find_source(args.source, args.weights))
        return found[0].name

    name = world.on_rank_zero(find)
    source = world.on_all_ranks(lambda: found[0] if found else find_source(name, args.weights))
    check_same(world, dotted({"model": source.name, "step": source.step, "recipe": recipe_to_dict(source.recipe)}))
    return source


def _same_items(world: "World", args: argparse.Namespace, source: "ModelSource", layer: Layer) -> "Items":
    """Return the items that --data names, the same on all ranks. Raises: ConfigError on all ranks. A collective."""
    from recipes.cluster.world_check import check_same

    modality, recipe = modality_of(source.recipe.modality, source.name), source.recipe

    def open_items() -> "Items":
        check_choice(layer, args.pool, recipe.model.num_layers, modality.cls_name, dashes="--")
        return modality.open_items(recipe, modality.build_maker(recipe, source.tokenizer), args.data, args.split, args.column)

    items = world.on_all_ranks(open_items)
    if world.size > 1:
        check_same(world, {"number of items": len(items), "places of the items (digest)": _digest_of_places(items)})
    return items


def _check_same_weights(world: "World", encoder: "TrainedEncoder") -> None:
    """Check that all ranks have read the same weights. Raises: ConfigError on all ranks. A collective."""
    from recipes.cluster.world_check import check_same

    digest = hashlib.sha256()
    for parameter in encoder.trunk.parameters() if world.size > 1 else ():
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    check_same(world, {"digest of the weights": digest.hexdigest()[:DIGITS]})


def _digest_of_places(items: "Items") -> str:
    digest = hashlib.sha256()
    for number in range(len(items)):
        digest.update(f"{items.where(number)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:DIGITS]


def _write(out: Path, parts: "list[EmbeddedPart]", about: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write the parts of all ranks as one file, and print what is in it."""
    from recipes.data.media import format_bad_items

    rows, bad = [one for part in parts for one in part.rows], [item for part in parts for item in part.bad]
    if not rows:
        raise ConfigError(f"{about['data']}: none of {len(bad)} items can be used: {format_bad_items(bad)}; check the data")
    about |= {"num_embedded": len(rows), "num_cut": sum(part.num_cut for part in parts), "bad": [item[:2] for item in bad]}
    found = Embeddings(rows, is_pooled=about["pool"] != "none")
    write_embeddings(out, found, about)
    if about["num_empty"]:
        say(f"left out: {about['num_empty']:,} blank lines or rows")
    if about["num_cut"]:
        say(f"cut: {about['num_cut']:,} items are longer than the network takes; only their beginning is in the embedding")
    if bad:
        say(f"left out: {len(bad):,} items that cannot be used (all in the file): {format_bad_items(bad)}")
    say(f"{parts[0].figures}; {len(rows):,} embeddings of {found.width} numbers written to {out}")


def _gathered(world: "World", part: "EmbeddedPart") -> "list[EmbeddedPart]":
    """Return the parts of all ranks, in rank order, on rank 0; [] on the others. A collective."""
    if world.size == 1:
        return [part]  # a collective would copy it twice
    import torch.distributed as dist

    parts: list[Any] = [None] * world.size
    dist.gather_object(part, parts if world.rank == 0 else None, dst=0, group=world.control)
    return parts if world.rank == 0 else []


def _silent(line: str) -> None:
    """Print nothing: rank 0 prints."""
