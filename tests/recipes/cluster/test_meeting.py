"""Where nodes meet: what rank 0 hears of whom, how clocks are compared, and that every wait ends."""

import socket
import time
from typing import Any

import pytest
import torch.distributed as dist

from recipes.cluster import meeting
from recipes.cluster.meeting import FirstSilent, Meeting, open_meeting
from recipes.errors import ConfigError
from tests.distributed import run_distributed


def meet(rank: int, size: int, timeout: float) -> Meeting:
    return Meeting(dist.PrefixStore("test", dist.distributed_c10d._get_default_store()), rank, size, timeout)


def all_come() -> tuple[Any, Any]:
    here = meet(dist.get_rank(), 3, 30)
    heard = here.collect("arrived", f"rank {here.rank}", [0, 1, 2])
    return heard, here.from_first("go", heard)


def test_rank_0_hears_all_and_all_hear_rank_0() -> None:
    everyone = {"0": "rank 0", "1": "rank 1", "2": "rank 2"}  # names of JSON are strings
    (heard, _), *others = run_distributed(all_come, 3)
    assert heard == {0: "rank 0", 1: "rank 1", 2: "rank 2"} and others == [({}, everyone)] * 2


def one_stays_away() -> Any:
    here = meet(dist.get_rank(), 3, 0.3)
    return here.rank == 1 or here.collect("arrived", True, [0, 1, 2])


def test_who_stays_away_is_left_out_in_time() -> None:
    heard, _, _ = run_distributed(one_stays_away, 3)
    assert heard == {0: True, 2: True}


def first_is_silent() -> str:
    here = meet(dist.get_rank(), 2, 0.2)
    if here.rank == 0:
        return ""
    meeting.time.monotonic = lambda start=time.monotonic: 100 * start()  # type: ignore[assignment]  # 30 s are part of the bound
    with pytest.raises(FirstSilent) as error:
        here.from_first("go")
    return str(error.value)


def test_a_silent_rank_0_is_named_in_time() -> None:
    _, complaint = run_distributed(first_is_silent, 2, timeout=60)
    assert complaint.startswith("rank 0 at 127.0.0.1:") and "has said nothing for 30.4 s" in complaint


def clocks(ahead: list[float]) -> float:
    here = meet(dist.get_rank(), len(ahead), 30)
    meeting.time.time = lambda now=time.time: now() + ahead[here.rank]  # type: ignore[assignment]
    return here.seconds_ahead(list(range(len(ahead))))


def test_a_clock_is_ahead_by_what_it_was_set_ahead_but_for_the_round_trip() -> None:
    ours, same, ahead, behind = run_distributed(clocks, 4, [0.0, 0.0, 100.0, -100.0])
    assert (ours, same) == (0.0, 0.0)
    assert 95 < ahead <= 100 and -100 <= behind < -95


def test_a_node_alone_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    alone = open_meeting(0, 1, 1)
    assert alone.from_first("go", [1]) == [1] and alone.collect("arrived", "me", [0]) == {0: "me"} and alone.seconds_ahead([0]) == 0.0


def address(monkeypatch: pytest.MonkeyPatch, host: str | None, port: object) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in (("MASTER_ADDR", host), ("MASTER_PORT", port)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, str(value))


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address(monkeypatch, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"port \d+ \(MASTER_PORT\) on \S+ cannot be opened: it is in use; set another MASTER_PORT"):
            open_meeting(0, 2, 1)


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "Connection refused"), ("no-such-host.invalid", ".+")])
def test_who_cannot_reach_rank_0_says_so_in_time(monkeypatch: pytest.MonkeyPatch, host: str, reason: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        address(monkeypatch, host, unused.getsockname()[1])
        with pytest.raises(FirstSilent, match=rf"cannot reach rank 0 at {host}:\d+ within 0.2 s \({reason}\); see its log"):
            open_meeting(1, 2, 0.2)


@pytest.mark.parametrize(("host", "port"), [(None, 29500), ("127.0.0.1", None), ("127.0.0.1", "http")])
def test_without_an_address_several_processes_do_not_meet(monkeypatch: pytest.MonkeyPatch, host: str | None, port: object) -> None:
    address(monkeypatch, host, port)
    with pytest.raises(ConfigError, match="several processes must know where rank 0 is; set both"):
        open_meeting(0, 2, 1)
