"""Write the student or teacher of a checkpoint to one safetensors file of whole float32 tensors under this project's names. It runs in
one process, one parameter at a time. Names and formats of fairseq and Hugging Face are in the other modules of recipes/interop."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.checkpoint.inspect import find_checkpoint, reading
from recipes.checkpoint.layout import Manifest
from recipes.cluster.environment import require_one_process
from recipes.errors import ConfigError
from recipes.system.durable import sync
from recipes.values import path_argument

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from torch import Tensor

    from recipes.checkpoint.load import CheckpointReader

KIND_OF = {"student": "master", "teacher": "shadow"}
"""Value of --weights -> kind of tensor in the checkpoint. The teacher has no head."""
TOKEN_TABLE = "trunk.frontend.tokens.weight"
"""The table of token embeddings. Its rows past the recipe's vocabulary are padding that makes the number of rows divisible. They are
zero, never trained and not counted as parameters. Readers of the file expect vocab_size rows, so the padding is not written."""


def add_command(commands: Any) -> None:
    """Add `consolidate` to the sub-commands of launch/convert.py."""
    parser = commands.add_parser("consolidate", help="write the student or the teacher as one safetensors file", allow_abbrev=False)
    parser.add_argument("--from", dest="source", type=path_argument, required=True, metavar="PATH", help="run dir or checkpoint folder")
    parser.add_argument("--weights", choices=list(KIND_OF), required=True, help="which of the two; the teacher has no head")
    parser.add_argument("--out", type=path_argument, required=True, metavar="FILE.safetensors", help="a file that does not exist yet")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.set_defaults(run=run_consolidate)


def run_consolidate(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run `consolidate`: write the weights of a checkpoint to one file, print what was written and how to load it, and return 0. Raises:
    ConfigError, DamagedCheckpoint."""
    require_one_process("consolidate", "launch/convert.py")
    folder = find_checkpoint(args.source, "--from ")
    from recipes.checkpoint.load import CheckpointReader  # a second of imports

    with reading(folder):
        reader = CheckpointReader(folder)
    shapes = consolidate(reader, args.weights, args.out)
    say(f"{args.weights} of {folder}: {len(shapes)} tensors, {args.out.stat().st_size:,} bytes, written to {args.out}")
    say(f'load it: from safetensors.torch import load_file; weights = load_file("{args.out}")')
    return 0


def consolidate(reader: "CheckpointReader", weights: str, out: Path) -> dict[str, tuple[int, ...]]:
    """Write all whole tensors of `weights` ("student" or "teacher") to the safetensors file `out`. After a failure, there is never a
    part of it in `out`. Hashes are verified. It needs as much host memory as the largest parameter.

    Returns: name -> shape. Raises: ConfigError if `out` exists or cannot be written, or the checkpoint has no such weights;
    DamagedCheckpoint.
    """
    from recipes.checkpoint.tensor_file import write_tensors

    temporary = out.with_name(f".{out.name}.tmp")
    try:
        if out.is_dir():
            raise ConfigError(f"--out {out}: is a folder; name a file in it, such as {out / f'{weights}.safetensors'}")
        if out.exists():
            raise ConfigError(f"--out {out}: exists already and is never overwritten; name another file or remove it")
        with reading(reader.folder):
            shapes = {name: _shape_without_padding(reader.manifest, name) for name in reader.names(KIND_OF[weights])}
        if not shapes:
            raise ConfigError(f"{reader.folder}: has no {weights}; its objective has none, take --weights student")
        if not out.parent.exists():
            raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it, or name a file in one that exists")
        write_tensors(temporary, shapes, _tensors(reader, KIND_OF[weights], shapes), _metadata(reader.manifest, weights, shapes))
        temporary.rename(out)
        sync(out.parent)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror or error}; name a file that you may write, on a disk with room") from None
    finally:
        with suppress(OSError):  # for example, the parent of `out` is a file
            temporary.unlink(missing_ok=True)
    return shapes


def _tensors(reader: "CheckpointReader", kind: str, shapes: dict[str, tuple[int, ...]]) -> Iterator["Tensor"]:
    """Yield the whole tensor of each name in `shapes`, in this order, without rows beyond its shape there. `kind`: the checkpoint's name
    of the weights. When the next tensor is taken, the memory of the one before is freed here, since the writer still holds it."""
    for name, shape in shapes.items():
        with reading(reader.folder):
            whole = reader.whole(kind, name)
        tensor = (whole if whole.shape == shape else whole[: shape[0]]).detach()  # a view would keep its base in memory
        del whole
        yield tensor
        tensor.data = tensor.new_empty(0)


def _shape_without_padding(manifest: Manifest, name: str) -> tuple[int, ...]:
    shape = manifest.parameters[name].shape
    vocab_size = manifest.metadata.get("recipe", {}).get("frontend", {}).get("vocab_size")
    return (min(vocab_size, shape[0]), *shape[1:]) if name == TOKEN_TABLE and vocab_size else shape


def _metadata(manifest: Manifest, weights: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the file's metadata: weights, step, recipe, and padding rows that were left out. safetensors requires strings. `format`
    marks the tensors as torch's for other readers."""
    stored = {name: manifest.parameters[name].shape for name in shapes}
    left_out = {name: stored[name][0] - shape[0] for name, shape in shapes.items() if shape != stored[name]}
    return {
        "format": "pt",
        "weights": weights,
        "step": str(manifest.counters.step),
        "recipe": json.dumps(manifest.metadata.get("recipe", {})),
        "padding_rows_left_out": json.dumps(left_out),
    }
