"""The embed command's flags, and that messages of other modules name them. Whole runs are in tests/launch/test_embed.py."""

import argparse

import pytest

from recipes.errors import ConfigError
from recipes.interop.embed import BATCH, build_parser, run_embed

FLAGS = {"--help", "--from", "--data", "--out", "--layer", "--pool", "--weights", "--split", "--column", "--batch-size", "--force"}


def parsed(*words: str) -> argparse.Namespace:
    return build_parser("").parse_args(["--from", "a", "--out", "b.npz", *words])


def test_the_flags_and_their_defaults() -> None:
    flags = {flag for action in build_parser("")._actions for flag in action.option_strings}
    assert flags - {"-h", "--local_rank"} == FLAGS
    args = parsed()
    assert (args.layer, args.pool, args.weights, args.batch_size, args.data, args.split) == ("last", "mean", "student", BATCH, None, None)


def test_a_wrong_layer_or_file_is_found_before_the_network_is_looked_for() -> None:
    for words, complaint in ((["--layer", "x"], "^--layer x: must be"), (["--out", "a.csv"], "^--out a.csv: unknown kind")):
        with pytest.raises(ConfigError, match=complaint):
            run_embed(parsed(*words), print)
