"""launch/preflight.py: the nodes of a job meet, measure themselves at the same time, and rank 0 says which of them falls out. Torch-free
until they meet. What a node measures is in node.py, who falls out in compare.py."""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.cluster.environment import export_world, quiet_libraries
from recipes.cluster.preflight import device_checks
from recipes.cluster.preflight.compare import Attendance, Findings, judge
from recipes.cluster.preflight.facts import Facts
from recipes.cluster.preflight.report import closing, table
from recipes.cluster.slurm import allocated_nodes
from recipes.errors import ConfigError
from recipes.values import place

if TYPE_CHECKING:  # both import torch
    from recipes.cluster.preflight.node import Node
    from recipes.cluster.rendezvous import Rendezvous

APPEARS_SECONDS = 2.0
"""By then a network file system shows rank 0 the files of the others."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """The flags of launch/preflight.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=place, default=Path("runs"), help="the run dir of the job, which need not exist (default: runs)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait for the nodes (default: 60)")
    parser.add_argument("--strict", action="store_true", help="a warning, such as a slow node, is an error too")
    parser.add_argument(
        "--full", action="store_true", help="also train and check shards and attention on one device of each node: a minute more"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_preflight(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Take part in the rendezvous; rank 0 prints what came of it. Returns the exit code, the same on all nodes.

    Raises: ConfigError on rank 0.
    """
    if not (0 < args.timeout < math.inf):
        raise ConfigError(f"--timeout {args.timeout:g}: must be a number of seconds above 0")
    world = export_world()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what goes wrong here is said in a line, not in a C++ stack
    quiet_libraries()
    from recipes.cluster.preflight.node import Node
    from recipes.cluster.rendezvous import RankZeroUnreachable, open_rendezvous  # a second of torch

    try:
        rendezvous = open_rendezvous(world.rank, world.size, args.timeout, name="preflight")
        node = Node(rendezvous, args.run_dir, world.local_rank, world.local_size or 1)
        try:
            return _take_part(rendezvous, node, args, say)
        finally:
            node.clean()
    except RankZeroUnreachable as error:
        _complain(str(error))  # nobody else would
        return error.exit_code


def _take_part(rendezvous: Rendezvous, node: Node, args: argparse.Namespace, say: Callable[[str], None]) -> int:
    node.prepare(rendezvous.from_first("nonce", secrets.token_hex(4)))
    came = rendezvous.collect("arrived", True, list(range(rendezvous.size)))
    present = rendezvous.from_first("go", sorted(came))
    said: dict[int, str] = {}
    checked: dict[int, dict[str, Any]] = {}
    if rendezvous.rank in present:  # who comes later is named already
        said = rendezvous.collect("facts", node.measure(present).to_json(), present)
        if args.full:
            checked = rendezvous.collect("checks", node.check_device(), present, device_checks.SECONDS)
    code = 0
    if rendezvous.rank == 0:
        all_nodes = attendance(rendezvous, node, said)
        if args.full:
            all_nodes = with_checks(all_nodes, checked)
        verdict = judge(all_nodes)
        checks = [f"device checks of {all_nodes.name(rank)}: {one['summary']}" for rank, one in sorted(checked.items()) if one["summary"]]
        for line in [_as_json(all_nodes, verdict, checked)] if args.json else [*table(all_nodes), *checks, *closing(all_nodes, verdict)]:
            say(line)
        bad = [*verdict.errors, *(verdict.warnings if args.strict else [])]
        if bad:  # before the others learn it: a launcher ends this process as soon as one of them has ended
            _complain("; also ".join(bad))
            code = ConfigError.exit_code
    code = rendezvous.from_first("verdict", code, more_seconds=device_checks.SECONDS if args.full else 0.0)
    rendezvous.leave(sorted(said) if rendezvous.rank == 0 else [])
    return code


def attendance(rendezvous: Rendezvous, first: Node, said: dict[int, str]) -> Attendance:
    """Who took part, as rank 0 sees it after the facts came in."""
    facts = {rank: Facts.of(text) for rank, text in said.items()}
    absent, reasons, hosts = {}, {}, []
    with suppress(OSError, subprocess.CalledProcessError):  # names are a courtesy
        hosts = allocated_nodes()
    for rank in sorted(set(range(rendezvous.size)) - facts.keys()):
        note = rendezvous.get(f"doing/{rank}", 0)
        absent[rank] = note["host"] if note else hosts[rank * len(hosts) // rendezvous.size] if hosts else ""
        doing = f"came, and was not done with {note['fact']}" if note else "did not come"
        reasons[rank] = f"{doing} within {rendezvous.timeout:g} s"
    deadline = time.monotonic() + APPEARS_SECONDS  # for all together
    return Attendance(facts, absent, reasons, frozenset(rank for rank in facts if not first.sees(rank, deadline)))


def with_checks(all_nodes: Attendance, checked: dict[int, dict[str, Any]]) -> Attendance:
    """The same with what the device checks found as facts that are missing."""
    unknown = {"failures": {device_checks.ALL: f"not done within {device_checks.SECONDS:g} s"}}
    errors = {rank: facts.errors | checked.get(rank, unknown)["failures"] for rank, facts in all_nodes.facts.items()}
    return replace(all_nodes, facts={rank: replace(facts, errors=errors[rank]) for rank, facts in all_nodes.facts.items()})


def _as_json(all_nodes: Attendance, verdict: Findings, checked: dict[int, dict[str, Any]]) -> str:
    nodes = {all_nodes.name(rank): asdict(facts) for rank, facts in sorted(all_nodes.facts.items())}
    for rank, found in checked.items():
        nodes[all_nodes.name(rank)]["device_checks"] = found["summary"]
    return json.dumps({"nodes": nodes, "errors": verdict.errors, "warnings": verdict.warnings})


def _complain(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()
