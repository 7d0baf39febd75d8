"""The parts of the command that need no second process: who is waited for, and how the absent get their names. The command itself is in
tests/launch/test_preflight.py."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recipes.cluster import rendezvous
from recipes.cluster.preflight import command as preflight
from recipes.cluster.preflight import measure
from recipes.cluster.preflight import node as node_module
from recipes.cluster.preflight.command import attendance, build_parser, with_checks
from recipes.cluster.preflight.compare import Attendance, judge
from recipes.cluster.preflight.node import Node
from recipes.cluster.rendezvous import Rendezvous
from tests.clock import Clock
from tests.nodes import node, nodes


def test_the_absent_have_names_where_they_came_or_slurm_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Node(Rendezvous(dist.HashStore(), 0, 1, 1.0), tmp_path, 0, 1)
    first.prepare("abc")
    here = Rendezvous(dist.HashStore(), 0, 4, 1.0)
    here.put("doing/1", {"host": "here", "fact": "matmul"})
    said = {0: node(0).to_json()}
    monkeypatch.setattr(preflight, "APPEARS_SECONDS", 0.0)
    monkeypatch.setattr(preflight, "allocated_nodes", lambda: ["node-1", "node-2"])
    seen = attendance(here, first, said)
    assert seen.absent == {1: "here", 2: "node-2", 3: "node-2"} and seen.unseen == frozenset()
    assert seen.reasons == {1: "came, and was not done with matmul within 1 s", 2: "did not come within 1 s", 3: "did not come within 1 s"}
    for nobody in (lambda: [], lambda: Path("/no/scontrol").read_text()):
        monkeypatch.setattr(preflight, "allocated_nodes", nobody)
        assert attendance(here, first, said).absent == {1: "here", 2: "", 3: ""}
    assert attendance(here, first, {**said, 1: node(1).to_json()}).unseen == {1}
    first.clean()


def test_only_those_that_came_are_waited_for_and_rank_0_leaves_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four, ranks 1 and 3 never come, and rank 2 ends before it has heard the verdict."""
    clock, here, said = Clock(), Rendezvous(dist.HashStore(), 0, 4, 10.0), list[str]()
    for module in (rendezvous, measure, node_module, preflight):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(torch, "mm", lambda *_, out: clock.sleep(1.0))
    for stage, value in (("arrived", True), ("facts", node(2).to_json()), ("ask", True)):
        here.put(f"{stage}/2", value)
    monkeypatch.setattr(preflight, "allocated_nodes", lambda: ["node-1", "node-2", "node-3", "node-4"])
    first = Node(here, tmp_path, 0, 1)
    code = preflight._take_part(here, first, build_parser("").parse_args(["--json"]), said.append)
    arrive, product, its_file, leave = 10.0, 1.0, preflight.APPEARS_SECONDS, rendezvous.LEAVING_SECONDS
    assert clock.now - 1000.0 == pytest.approx(arrive + product + its_file + leave, abs=0.3)
    assert (code, here.get("verdict", 0), here.get("go", 0)) == (2, 2, [0, 2])
    late = "node-2, node-4: did not come within 10 s; see what that node does, or leave it out (sbatch --exclude)"
    assert late in json.loads(said[0])["errors"]
    first.clean()


def test_what_the_device_checks_found_is_an_error_of_that_node() -> None:
    checked = {0: {"summary": "3 ok", "failures": {}}, 1: {"summary": "1 failed", "failures": {"check shards": "on the host"}}}
    errors = judge(with_checks(Attendance(nodes(3)), checked)).errors
    assert [error.partition(";")[0] for error in errors] == [
        "node-2: check shards: on the host",
        "node-3: device checks: not done within 300 s",
    ]
