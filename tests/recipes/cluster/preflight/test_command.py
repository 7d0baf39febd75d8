"""The parts of the command that need no second process: for which ranks it waits, and how missing ranks get node names. The command itself
is tested in tests/launch/test_preflight.py."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recipes.cluster import rendezvous
from recipes.cluster.preflight import command as preflight
from recipes.cluster.preflight import measure
from recipes.cluster.preflight import node as node_module
from recipes.cluster.preflight.command import add_device_checks, build_cluster_report, build_parser
from recipes.cluster.preflight.compare import ClusterReport, compare_nodes
from recipes.cluster.preflight.node import Node
from recipes.cluster.rendezvous import Rendezvous
from tests.clock import Clock
from tests.nodes import node, nodes


def test_missing_ranks_have_node_names_from_the_store_or_from_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Node(Rendezvous(dist.HashStore(), 0, 1, 1.0), tmp_path, 0, 1)
    first.prepare("abc")
    here = Rendezvous(dist.HashStore(), 0, 4, 1.0)
    here.put("doing/1", {"host": "here", "measurement": "matmul"})
    received = {0: node(0).to_json()}
    monkeypatch.setattr(preflight, "APPEARS_SECONDS", 0.0)
    monkeypatch.setattr(preflight, "allocated_nodes", lambda: ["node-1", "node-2"])
    seen = build_cluster_report(here, first, received)
    assert seen.absent == {1: "here", 2: "node-2", 3: "node-2"} and seen.unseen == frozenset()
    assert seen.reasons == {1: "joined, but did not finish matmul within 1 s", 2: "did not join within 1 s", 3: "did not join within 1 s"}
    for no_names in (lambda: [], lambda: Path("/no/scontrol").read_text()):
        monkeypatch.setattr(preflight, "allocated_nodes", no_names)
        assert build_cluster_report(here, first, received).absent == {1: "here", 2: "", 3: ""}
    assert build_cluster_report(here, first, {**received, 1: node(1).to_json()}).unseen == {1}
    first.clean()


def test_rank_0_waits_only_for_ranks_that_joined_and_leaves_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 1 and 3 of four never join, and rank 2 ends before it has read the exit code."""
    clock, here, lines = Clock(), Rendezvous(dist.HashStore(), 0, 4, 10.0), list[str]()
    for module in (rendezvous, measure, node_module, preflight):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(torch, "mm", lambda *_, out: clock.sleep(1.0))
    for stage, value in (("joined", True), ("report", node(2).to_json()), ("clock_request", True)):
        here.put(f"{stage}/2", value)
    monkeypatch.setattr(preflight, "allocated_nodes", lambda: ["node-1", "node-2", "node-3", "node-4"])
    first = Node(here, tmp_path, 0, 1)
    code = preflight._take_part(here, first, build_parser("").parse_args(["--json"]), lines.append)
    join, product, file_of_rank_2, leave = 10.0, 1.0, preflight.APPEARS_SECONDS, rendezvous.LEAVING_SECONDS
    assert clock.now - 1000.0 == pytest.approx(join + product + file_of_rank_2 + leave, abs=0.3)
    assert (code, here.get("exit code", 0), here.get("present", 0)) == (2, 2, [0, 2])
    missing = "node-2, node-4: did not join within 10 s; check that node, or leave it out (sbatch --exclude)"
    assert missing in json.loads(lines[0])["errors"]
    first.clean()


def test_a_failed_device_check_is_an_error_of_that_node() -> None:
    checked = {0: {"summary": "3 ok", "failures": {}}, 1: {"summary": "1 failed", "failures": {"check shards": "on the host"}}}
    errors = compare_nodes(add_device_checks(ClusterReport(nodes(3)), checked)).errors
    assert [error.partition(";")[0] for error in errors] == [
        "node-2: check shards: on the host",
        "node-3: device checks: not done within 300 s",
    ]
