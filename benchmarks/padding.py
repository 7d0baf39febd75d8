"""Measures which share of the positions of one epoch of fine-tuning on text is padding: with batches of similar lengths, and with random
ones.

python benchmarks/padding.py --data runs/text_classify/prepared --batch 32 --micro 32 16 8
"""

import argparse
import json
from pathlib import Path

import numpy as np

from recipes.cluster.command import exit_code_of
from recipes.data.labelled_folder import TRAIN
from recipes.data.labelled_text_data import LabelledTextDataset
from recipes.values import path_argument


def main() -> int:
    """Parse the flags, measure, and print one JSON object: micro-batch -> shares. Returns the exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", type=path_argument, required=True, help="prepared folder of a run of fine-tuning on text")
    parser.add_argument("--batch", type=int, default=32, help="samples of an update")
    parser.add_argument("--micro", type=int, nargs="+", default=[32, 16, 8], help="samples of a micro-batch; they divide --batch")
    args = parser.parse_args()
    print(json.dumps({micro: measure(args.data, args.batch, micro) for micro in args.micro}))
    return 0


def measure(prepared: Path, batch_size: int, micro_batch_size: int) -> dict[str, float]:
    """Return the share of padded positions in the micro-batches of the first epoch, in the order of training (`buckets`) and in a random
    one (`random`)."""
    dataset = LabelledTextDataset(prepared, TRAIN, batch_size=batch_size)
    num_used = len(dataset) // batch_size * batch_size
    orders = {"buckets": dataset.order(np.random.default_rng(0)), "random": np.random.default_rng(0).permutation(len(dataset))}
    return {name: _padded_share(dataset, order_N[:num_used], micro_batch_size) for name, order_N in orders.items()}


def _padded_share(dataset: LabelledTextDataset, order_N: np.ndarray, micro_batch_size: int) -> float:
    lengths_MB = np.array([len(dataset.example(0, index).tokens) for index in order_N.tolist()]).reshape(-1, micro_batch_size)
    return round(1 - float(lengths_MB.sum() / (lengths_MB.max(1).sum() * micro_batch_size)), 4)


if __name__ == "__main__":
    raise SystemExit(exit_code_of(main))
