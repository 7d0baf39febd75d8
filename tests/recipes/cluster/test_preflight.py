"""The parts of the command that need no second process: how the absent get their names. The command itself is in
tests/launch/test_preflight.py."""

from pathlib import Path

import pytest
import torch.distributed as dist

from recipes.cluster import preflight
from recipes.cluster.meeting import Meeting
from recipes.cluster.node import Node
from recipes.cluster.preflight import attendance
from tests.nodes import node


def test_the_absent_have_names_where_they_came_or_slurm_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Node(Meeting(dist.HashStore(), 0, 1, 1.0), tmp_path, 0, 1)
    first.prepare("abc")
    meeting = Meeting(dist.HashStore(), 0, 4, 1.0)
    meeting.tell("doing/1", {"host": "here", "fact": "matmul"})
    said = {0: node(0).to_json()}
    monkeypatch.setattr(preflight, "APPEARS_SECONDS", 0.0)
    monkeypatch.setattr(preflight, "allocated_nodes", lambda: ["node-1", "node-2"])
    seen = attendance(meeting, first, said)
    assert seen.absent == {1: "here", 2: "node-2", 3: "node-2"} and seen.unseen == frozenset()
    assert seen.reasons == {1: "came, and was not done with matmul within 1 s", 2: "did not come within 1 s", 3: "did not come within 1 s"}
    for nobody in (lambda: [], lambda: Path("/no/scontrol").read_text()):
        monkeypatch.setattr(preflight, "allocated_nodes", nobody)
        assert attendance(meeting, first, said).absent == {1: "here", 2: "", 3: ""}
    assert attendance(meeting, first, {**said, 1: node(1).to_json()}).unseen == {1}
    first.clean()
