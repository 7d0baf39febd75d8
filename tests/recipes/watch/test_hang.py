"""Which ranks are the stragglers of a hang, case by case."""

from dataclasses import asdict
from typing import Any

import pytest

from recipes.watch.hang import HangReport, build_hang_report, is_complete_dump, main_frames

HOSTS = ["node1", "node2", "node2", "node3"]
DUMP = """Thread 0x00007f0000000002 (most recent call first):
  File "/lib/threading.py", line 331 in wait

Current thread 0x00007f0000000001 (most recent call first):
  File "/site/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/work/recipes/train/loop.py", line 112 in train_step
  File "/work/launch/pretrain_text.py", line 14 in <module>
"""
COMPUTING = DUMP.replace("torch/distributed/distributed_c10d", "torch/nn/functional")


def report(rank: int, **changes: Any) -> dict[str, Any]:
    """Return the report of a rank that hangs in the phase `agree` of step 41, with `changes`."""
    place = {"step": 41, "micro_batch": 0, "phase": "agree", "beat": 500, "state": "S", "silent_seconds": 600.2, "time": 1.0}
    return {"rank": rank, "host": HOSTS[rank], "main_thread": 0x7F0000000001, "ended": "hang", **place, **changes}


def report_of(*reports: dict[str, Any], stacks: dict[int, str] | None = None) -> HangReport:
    return build_hang_report(reports[0], {one["rank"]: one for one in reports}, stacks or {}, HOSTS)


def stragglers(hang: HangReport) -> dict[int, str]:
    return {one.rank: one.why for one in hang.behind}


def test_a_rank_without_a_report_comes_first() -> None:
    hang = report_of(report(0), report(1, state="T"), report(3, beat=1))
    assert stragglers(hang) == {2: "no answer: its node is frozen or gone, or its watcher is"}
    assert hang.behind[0].host == "node2" and hang.behind[0].step is None and hang.num_ranks == 4
    assert "rank 2 on node2 is behind (no answer: its node is frozen or gone, or its watcher is); s" in hang.line("s")


@pytest.mark.parametrize(
    ("ended", "why"),
    [("silent", "has died without an exit code"), ({"code": 1, "message": "ValueError"}, "has ended with exit code 1")],
)
def test_a_rank_that_ended_with_an_error_comes_first(ended: object, why: str) -> None:
    hang = report_of(report(0), report(1), report(2), report(3, ended=ended, state="?"))
    assert stragglers(hang) == {3: why} and hang.behind[0].step == 41


@pytest.mark.parametrize("code", [0, 75])
def test_a_rank_that_ended_without_an_error_is_ahead_of_hanging_ranks(code: int) -> None:
    over = [report(rank, ended={"code": code, "message": ""}, beat=501, phase="leave") for rank in (0, 2, 3)]
    assert stragglers(report_of(report(1), *over)) == {1: "others have ended"}


@pytest.mark.parametrize(("state", "why"), [("T", "stopped"), ("t", "held by a debugger"), ("D", "in disk sleep")])
def test_a_process_that_cannot_continue_comes_before_the_smallest_heartbeat_number(state: str, why: str) -> None:
    assert stragglers(report_of(report(0), report(1), report(2, state=state), report(3, beat=1))) == {2: why}


def test_then_the_ranks_with_the_smallest_heartbeat_number() -> None:
    hang = report_of(report(0), report(1, beat=499, phase="data"), report(2), report(3, beat=499, phase="data"))
    assert stragglers(hang) == {1: "others are at step 41, agree", 3: "others are at step 41, agree"}
    assert hang.line("s") == (
        "hang: no progress for 600 s; rank 1 on node2 (others are at step 41, agree, step 41, data), "
        "rank 3 on node3 (others are at step 41, agree, step 41, data) are behind; s"
    )


def test_then_the_ranks_that_are_not_in_a_collective() -> None:
    hang = report_of(*map(report, range(4)), stacks={0: DUMP, 1: DUMP, 2: COMPUTING, 3: DUMP})
    assert stragglers(hang) == {2: "not in a collective, as others are"}
    assert asdict(hang.behind[0]) | {"frames": []} == {
        **{"rank": 2, "host": "node2", "why": "not in a collective, as others are"},
        **{"step": 41, "phase": "agree", "time": 1.0, "frames": []},
    }
    assert hang.behind[0].frames[:2] == ["torch/nn/functional.py:3252 all_reduce", "recipes/train/loop.py:112 train_step"]


@pytest.mark.parametrize("stacks", [{}, dict.fromkeys(range(4), DUMP), dict.fromkeys(range(4), COMPUTING)])
def test_otherwise_all_ranks_are_in_the_same_place(stacks: dict[int, str]) -> None:
    hang = report_of(*map(report, range(4)), stacks=stacks)
    assert hang.behind == []
    assert hang.line("s") == "hang: no progress for 600 s; all 4 ranks are stuck in the same place (step 41, agree); s"


def test_the_line_names_three_of_many_stragglers() -> None:
    hang = build_hang_report(report(0), {0: report(0)}, {}, ["a", "b", "c", "d", "e", "f"])
    line = hang.line("s")
    assert line.endswith("and 2 more are behind; s") and line.count("rank ") == 3
    assert len(hang.to_json()["behind"]) == 5
    assert list(hang.to_json()) == ["seconds", "num_ranks", "behind", "speaker", "place"], "the keys of hang.json"


def test_frames_are_those_of_the_main_thread_innermost_first() -> None:
    frames = main_frames(DUMP, 0x7F0000000001)
    assert frames == [
        "torch/distributed/distributed_c10d.py:3252 all_reduce",
        "recipes/train/loop.py:112 train_step",
        "work/launch/pretrain_text.py:14 <module>",
    ]
    assert main_frames(DUMP, 7) == frames, "the thread that received the signal, if the main thread is not in the dump"
    assert main_frames(DUMP, 0x7F0000000002) == ["/lib/threading.py:331 wait"], "another thread received the signal"
    assert main_frames("no stack within 3 s", 1) == []
    waits = report(2, main_thread=0x7F0000000002)
    (behind,) = report_of(report(0), report(1), waits, report(3), stacks=dict.fromkeys(range(4), DUMP)).behind
    assert (behind.rank, behind.frames) == (2, ["/lib/threading.py:331 wait"])


def test_a_dump_is_complete_if_it_ends_with_the_outermost_frame_of_the_main_thread() -> None:
    other, main = "Thread 0x00000000000000ff (most recent call first):\n", "Current thread 0x000000000000abcd (most recent call first):\n"
    frame = '  File "x.py", line 1 in <module>\n'
    assert is_complete_dump(other + frame + "\n" + main + frame, 0xABCD) and is_complete_dump(main + frame + "  ...\n", 0xABCD)
    for part in ("", other + frame, other + frame + "\n" + main, other + frame + "\n" + main + '  File "x.py", line 1 in f\n'):
        assert not is_complete_dump(part, 0xABCD)
