"""The embed command: which network, on which data, which layer, and where the embeddings are written. The computation on one rank is in
embedding.py."""

import argparse
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cluster.checkout import ROOT
from recipes.cluster.environment import quiet_libraries
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF
from recipes.interop.embedding_file import WRITERS, Embeddings, check_out, write_embeddings
from recipes.interop.layers import LAYER_HELP, POOL_HELP, POOLS, check_choice, read_layer
from recipes.modalities.registry import modality_of
from recipes.values import name_argument, path_argument, positive_count

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from recipes.cluster.world import World
    from recipes.interop.embedding import EmbeddedPart

BATCH = 32


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
    from recipes.interop.model_source import find_source

    source = find_source(args.source, args.weights)
    modality, recipe = modality_of(source.recipe.modality, source.name), source.recipe
    _with_flag_names(lambda: check_choice(layer, args.pool, recipe.model.num_layers, modality.cls_name))
    maker = modality.build_maker(recipe, source.tokenizer_folder)
    items = _with_flag_names(lambda: modality.open_items(recipe, maker, args.data, args.split, args.column))
    world = join_world(say)
    log = say if world.rank == 0 else _silent
    try:
        log(f"{items.name}: {len(items):,} items; {recipe.name}, {args.weights}, of {source.name}")
        if items.note:
            log(items.note)
        encoder = world.on_all_ranks(lambda: build_encoder(source, world.device))
        part = world.on_all_ranks(
            lambda: embed_part(encoder, items, world.rank, world.size, layer=layer, pool=args.pool, batch_size=args.batch_size, log=log)
        )
        about = {
            **{"source": source.name, "step": source.step, "weights": args.weights, "recipe": recipe.name, "modality": recipe.modality},
            **{"layer": layer, "pool": args.pool, "data": items.name, "split": args.split or "all", "release": _release()},
            **{"num_items": len(items), "num_empty": items.num_empty},
        }
        parts = _gathered(world, part)
        world.on_rank_zero(lambda: _write(args.out, parts, about, say))
    finally:
        leave_world()
    return 0


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
    import torch.distributed as dist

    parts: list[Any] = [None] * world.size
    dist.gather_object(part, parts if world.rank == 0 else None, dst=0, group=world.control)
    return parts if world.rank == 0 else []


def _with_flag_names(job: Callable[[], Any]) -> Any:
    """Return job(). Its ConfigError names the flags of this command in place of a recipe's settings."""
    try:
        return job()
    except ConfigError as error:
        text = str(error)
        for setting, flag in SETTINGS.items():
            text = text.replace(setting, flag)
        raise type(error)(text) from None


SETTINGS = {
    "--set --column=": "--column ",
    "--set data.text_column=": "--column ",
    "--set data.column=": "--column ",
    "--set data.split=": "--split ",
    "layer ": "--layer ",
    "pool cls:": "--pool cls:",
}
"""Words of messages of other modules -> this command's flags."""


def _release() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def _silent(line: str) -> None:
    """Print nothing: rank 0 prints."""
