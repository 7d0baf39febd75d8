"""The rendezvous: which values rank 0 receives, how clocks are compared, and that every wait ends."""

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

from recipes.cluster import rendezvous
from recipes.cluster.rendezvous import RankZeroUnreachable, Rendezvous, open_rendezvous
from recipes.errors import ConfigError
from tests.clock import Clock
from tests.distributed import run_distributed


def join(rank: int, size: int, timeout: float) -> Rendezvous:
    return Rendezvous(dist.PrefixStore("test", dist.distributed_c10d._get_default_store()), rank, size, timeout)


def all_join() -> tuple[Any, Any]:
    here = join(dist.get_rank(), 3, 30)
    values = here.collect("joined", f"rank {here.rank}", [0, 1, 2])
    return values, here.broadcast("present", values)


def test_rank_0_collects_all_values_and_broadcasts_its_own() -> None:
    everyone = {"0": "rank 0", "1": "rank 1", "2": "rank 2"}  # JSON turns keys into strings
    (collected, _), *others = run_distributed(all_join, 3)
    assert collected == {0: "rank 0", 1: "rank 1", 2: "rank 2"} and others == [({}, everyone)] * 2


def one_is_missing() -> Any:
    here = join(dist.get_rank(), 3, 0.3)
    return here.rank == 1 or here.collect("joined", True, [0, 1, 2])


def test_a_missing_rank_is_left_out_after_the_timeout() -> None:
    collected, _, _ = run_distributed(one_is_missing, 3)
    assert collected == {0: True, 2: True}


WAITS: dict[str, tuple[int, Callable[[Rendezvous], Any], float]] = {
    "rank 0 collects from all, with one limit for all together": (0, lambda here: here.collect("report", 1, [0, 1, 2, 3]), 10.0),
    "rank 0 leaves": (0, lambda here: here.leave([0, 1, 2, 3]), 5.0),
    "rank 0 answers the clock requests of each": (0, lambda here: here.seconds_ahead([0, 1, 2, 3]), 3 * 5.0),
    "rank 1 waits for the answer to its clock request": (1, lambda here: here.seconds_ahead([0, 1, 2, 3]), 10.0 + 4 * 5.0),
    "rank 1 waits for a broadcast, before which rank 0 collects twice": (1, lambda here: here.broadcast("present"), 2 * 10.0 + 30.0),
}


@pytest.mark.parametrize("what", WAITS)
def test_without_any_other_rank_every_wait_ends_at_its_limit(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (rank, wait, seconds), clock = WAITS[what], Clock()
    monkeypatch.setattr(rendezvous, "time", clock)
    address(monkeypatch, "node-1", 29500)
    here, start = Rendezvous(dist.HashStore(), rank, 4, 10.0), clock.now
    if what.startswith("rank 1 waits for a broadcast"):
        with pytest.raises(RankZeroUnreachable, match=r"rank 0 at node-1:29500 has sent nothing for 50 s; see its log"):
            wait(here)
    else:
        assert wait(here) in ({0: 1}, None, 0.0)
    assert seconds <= clock.now - start < seconds + 0.5, "each poll may add one pause"


def test_each_rank_gets_the_answer_to_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, store = Clock(), dist.HashStore()
    monkeypatch.setattr(rendezvous, "time", clock)
    first, third = Rendezvous(store, 0, 4, 10.0), Rendezvous(store, 2, 4, 10.0)
    first.put("clock_request/2", True)
    first.seconds_ahead([0, 2, 3])
    assert (first.get("clock_answer/2", 0), first.get("clock_answer/1", 0), first.get("clock_answer/3", 0)) == (1000.0, None, None)
    for rank in (1, 3):
        first.put(f"clock_answer/{rank}", 0.0)
    clock.now = 1020.0
    assert third.seconds_ahead([0, 2, 3]) == 20.0


def clocks(ahead: list[float]) -> float:
    here = join(dist.get_rank(), len(ahead), 30)
    rendezvous.time.time = lambda now=time.time: now() + ahead[here.rank]  # type: ignore[assignment]
    return here.seconds_ahead(list(range(len(ahead))))


def test_a_clocks_offset_is_measured_up_to_the_round_trip() -> None:
    ours, same, ahead, behind = run_distributed(clocks, 4, [0.0, 0.0, 100.0, -100.0])
    assert (ours, same) == (0.0, 0.0)
    assert 95 < ahead <= 100 and -100 <= behind < -95


def test_a_single_rank_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    alone = open_rendezvous(0, 1, 1)
    assert alone.broadcast("present", [1]) == [1] and alone.collect("joined", "me", [0]) == {0: "me"} and alone.seconds_ahead([0]) == 0.0


def address(monkeypatch: pytest.MonkeyPatch, host: str | None, port: object) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in (("MASTER_ADDR", host), ("MASTER_PORT", port)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, str(value))


def test_rendezvous_of_other_names_and_of_earlier_restarts_are_separate(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # the store of torchrun, which it keeps for restarts
    address(monkeypatch, "127.0.0.1", store.port)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    open_rendezvous(0, 2, 5, name="train").put("present", True)
    assert dist.PrefixStore("train/0", store).check(["present"]) and capfd.readouterr().err == "", (
        "rank 0 does not try to open its own store"
    )
    assert open_rendezvous(1, 2, 5, name="train").get("present", 0) and open_rendezvous(1, 2, 5).get("present", 0) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert open_rendezvous(1, 2, 5, name="train").get("present", 0) is None


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address(monkeypatch, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"port \d+ \(MASTER_PORT\) on \S+ cannot be opened: it is in use; set another MASTER_PORT"):
            open_rendezvous(0, 2, 1)


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "Connection refused"), ("no-such-host.invalid", ".+")])
def test_a_rank_that_cannot_reach_rank_0_fails_after_the_timeout(monkeypatch: pytest.MonkeyPatch, host: str, reason: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # without listening
        address(monkeypatch, host, unused.getsockname()[1])
        monkeypatch.setattr(rendezvous, "time", Clock())
        with pytest.raises(RankZeroUnreachable, match=rf"cannot reach rank 0 at {host}:\d+ within 0.2 s \({reason}\); see its log"):
            open_rendezvous(1, 2, 0.2)


@pytest.mark.parametrize(("host", "port"), [(None, 29500), ("127.0.0.1", None), ("127.0.0.1", "http")])
def test_several_processes_without_an_address_are_refused(monkeypatch: pytest.MonkeyPatch, host: str | None, port: object) -> None:
    address(monkeypatch, host, port)
    with pytest.raises(ConfigError, match="several processes need the address of rank 0; set both"):
        open_rendezvous(0, 2, 1)
