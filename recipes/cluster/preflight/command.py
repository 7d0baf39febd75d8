"""launch/preflight.py: the nodes of a job join a rendezvous and measure themselves at the same time; rank 0 prints which nodes are broken
or slow. Torch-free until the rendezvous. The measurements of a node are in node.py, the comparison of nodes in compare.py."""

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
from recipes.cluster.preflight.compare import ClusterReport, Findings, compare_nodes
from recipes.cluster.preflight.node_report import NodeReport
from recipes.cluster.preflight.report import summary, table
from recipes.cluster.slurm import allocated_nodes
from recipes.errors import ConfigError
from recipes.values import path_argument

if TYPE_CHECKING:  # both import torch
    from recipes.cluster.preflight.node import Node
    from recipes.cluster.rendezvous import Rendezvous

APPEARS_SECONDS = 2.0
"""How long a network file system may take to show rank 0 the files of the other nodes."""


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags of launch/preflight.py. `description` is the text above the flags in --help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument(
        "--run-dir", type=path_argument, default=Path("runs"), help="the run dir of the job, which need not exist (default: runs)"
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait for the nodes (default: 60)")
    parser.add_argument("--strict", action="store_true", help="a warning, such as a slow node, is an error too")
    parser.add_argument(
        "--full", action="store_true", help="also train and check shards and attention on one device of each node: a minute more"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_preflight(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Measure this node together with the others, and return the exit code, the same on all nodes. Rank 0 prints the results.

    Raises: ConfigError if --timeout or the launcher's variables are invalid; on rank 0 also if the port is in use.
    """
    if not (0 < args.timeout < math.inf):
        raise ConfigError(f"--timeout {args.timeout:g}: must be a number of seconds above 0")
    world = export_world()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # errors are printed as one line here, without a C++ stack
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
        _print_error(str(error))  # rank 0 cannot print it
        return error.exit_code


def _take_part(rendezvous: Rendezvous, node: Node, args: argparse.Namespace, say: Callable[[str], None]) -> int:
    node.prepare(rendezvous.broadcast("nonce", secrets.token_hex(4)))
    joined = rendezvous.collect("joined", True, list(range(rendezvous.size)))
    present = rendezvous.broadcast("present", sorted(joined))
    reports: dict[int, str] = {}
    checked: dict[int, dict[str, Any]] = {}
    if rendezvous.rank in present:  # a rank that joins later is reported as missing
        reports = rendezvous.collect("report", node.measure(present).to_json(), present)
        if args.full:
            checked = rendezvous.collect("checks", node.check_device(), present, device_checks.SECONDS)
    code = 0
    if rendezvous.rank == 0:
        all_nodes = build_cluster_report(rendezvous, node, reports)
        if args.full:
            all_nodes = add_device_checks(all_nodes, checked)
        findings = compare_nodes(all_nodes)
        checks = [f"device checks of {all_nodes.name(rank)}: {one['summary']}" for rank, one in sorted(checked.items()) if one["summary"]]
        for line in [_as_json(all_nodes, findings, checked)] if args.json else [*table(all_nodes), *checks, *summary(all_nodes, findings)]:
            say(line)
        bad = [*findings.errors, *(findings.warnings if args.strict else [])]
        if bad:  # print before the broadcast: a launcher kills this process as soon as another rank has exited with an error
            _print_error("; also ".join(bad))
            code = ConfigError.exit_code
    code = rendezvous.broadcast("exit code", code, more_seconds=device_checks.SECONDS if args.full else 0.0)
    rendezvous.leave(sorted(reports) if rendezvous.rank == 0 else [])
    return code


def build_cluster_report(rendezvous: Rendezvous, first: Node, received: dict[int, str]) -> ClusterReport:
    """Return what rank 0 has found out about all nodes: their reports, and for each rank without a report the reason. `received`: rank
    -> report as JSON. `first`: rank 0's own node."""
    reports = {rank: NodeReport.of(text) for rank, text in received.items()}
    absent, reasons, hosts = {}, {}, []
    with suppress(OSError, subprocess.CalledProcessError):  # the report is useful without node names
        hosts = allocated_nodes()
    for rank in sorted(set(range(rendezvous.size)) - reports.keys()):
        current = rendezvous.get(f"doing/{rank}", 0)
        absent[rank] = current["host"] if current else hosts[rank * len(hosts) // rendezvous.size] if hosts else ""
        problem = f"joined, but did not finish {current['measurement']}" if current else "did not join"
        reasons[rank] = f"{problem} within {rendezvous.timeout:g} s"
    deadline = time.monotonic() + APPEARS_SECONDS  # for all nodes together
    return ClusterReport(reports, absent, reasons, frozenset(rank for rank in reports if not first.sees_file_of(rank, deadline)))


def add_device_checks(all_nodes: ClusterReport, checked: dict[int, dict[str, Any]]) -> ClusterReport:
    """Return a copy of the report in which failed device checks are errors of their nodes. `checked`: rank -> a dict with key
    `failures`, the failed checks. A rank that is not in `checked` counts as failed."""
    unknown = {"failures": {device_checks.ALL: f"not done within {device_checks.SECONDS:g} s"}}
    errors = {rank: report.errors | checked.get(rank, unknown)["failures"] for rank, report in all_nodes.reports.items()}
    return replace(all_nodes, reports={rank: replace(report, errors=errors[rank]) for rank, report in all_nodes.reports.items()})


def _as_json(all_nodes: ClusterReport, findings: Findings, checked: dict[int, dict[str, Any]]) -> str:
    nodes = {all_nodes.name(rank): asdict(report) for rank, report in sorted(all_nodes.reports.items())}
    for rank, found in checked.items():
        nodes[all_nodes.name(rank)]["device_checks"] = found["summary"]
    return json.dumps({"nodes": nodes, "errors": findings.errors, "warnings": findings.warnings})


def _print_error(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()
