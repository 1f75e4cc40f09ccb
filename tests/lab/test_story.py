"""The whole story in virtual time: a world of one client, whose flows take the path that the daemons say."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from l4proxy.lab import daemons, demo
from l4proxy.lab.network import LabError
from l4proxy.lab.story import Story

STORY = Story.from_map()
INGRESS, TRANSIT, EGRESS = STORY.pops
DIRECT, DETOUR = [INGRESS, EGRESS], [INGRESS, TRANSIT, EGRESS]
TICK_NS = 20_000_000
OUTAGE_NS = 600_000_000
"""How long this world's flows are silent after a cut."""


class World:
    """Clock, daemons, network and client of a demo. `now_ns` moves only by `sleep`."""

    def __init__(self, folder: Path) -> None:
        self.now_ns = 0
        self.smart = False
        self.cut_at: int | None = None
        self.mended_at: int | None = None
        self.return_after_ns = 4_000_000_000
        self.resets_on_cut = False
        self.record = folder / "record"
        self.open = False
        self.number = 0
        self.log: list[str] = []
        self.run = SimpleNamespace(folder=folder)

    # -- what the demo sees of time

    def sleep(self, seconds: float) -> None:
        end = self.now_ns + round(seconds * 1e9)
        while self.now_ns < end:
            self.now_ns += TICK_NS
            if self.open:
                self._tick()

    def _tick(self) -> None:
        path = self.path
        silent = self.cut_at is not None and self.now_ns - self.cut_at < OUTAGE_NS
        rtt_ns = round(STORY.path_rtt_ms(path) * 1e6)
        with self.record.open("a") as out:
            for flow in ("tcp", "udp"):
                event: dict[str, Any] = {"flow": flow, "number": self.number, "sent_ns": self.now_ns}
                out.write(json.dumps(event | {"event": "sent", "at_ns": self.now_ns}) + "\n")
                lost = silent and flow == "udp"
                came = self.now_ns + rtt_ns + (OUTAGE_NS if silent else 0)
                if not lost:
                    out.write(json.dumps(event | {"event": "received", "at_ns": came}) + "\n")
        self.number += 1

    # -- what it sees of the daemons

    @property
    def path(self) -> list[str]:
        if not self.smart:
            return DIRECT
        if self.mended_at is not None:
            return DETOUR if self.now_ns - self.mended_at >= self.return_after_ns else DIRECT
        return DETOUR if self.cut_at is None else DIRECT

    def ask(self, _: Any, pop: str, *command: str) -> Any:
        if command[:2] == ("link", "list"):
            up = self.now_ns >= 1_000_000_000
            others = [other for other in STORY.pops if other != pop]
            return {"links": [{"from": pop, "to": other, "up": up, "samples": 9} for other in others]}
        if command[:2] == ("route", "list"):
            return {
                "routes": [
                    {"app": "echo", "ingress": INGRESS, "path": self.path},
                    {"app": "x", "ingress": INGRESS, "path": []},
                ]
            }
        assert command[:2] == ("flow", "list")
        return {
            "flows": [
                {"protocol": p, "client": f"10.77.4.1:{n}", "path": self.path}
                for p, n in (("tcp", 41), ("udp", 42), ("tcp", 99))
            ]
        }

    def tell(self, _: Any, pop: str, *command: str) -> str:
        assert (pop, command[0], command[2]) == (INGRESS, "smart-routing", "--all")
        self.smart = command[1] == "on"
        self.log.append(f"smart routing {command[1]}")
        return ""

    # -- and of the network

    def stats(self, *, reset: bool = False) -> dict[str, Any]:
        del reset
        return {"lateness": {"packets": 100, "late_packets": 0, "p50_us": 20, "p99_us": 90, "max_us": 900}}

    def start(self, host: str, arguments: list[str], role: str, output: Any = None) -> None:
        del arguments, output
        self.log.append(f"{role} at {host}")

    def cut(self, a: str, b: str) -> None:
        self.log.append(f"cut {a} {b}")
        self.cut_at = self.now_ns
        if self.resets_on_cut:
            with self.record.open("a") as out:
                out.write(
                    json.dumps({"event": "ended", "flow": "tcp", "at_ns": self.now_ns + 1, "reason": "reset"})
                    + "\n"
                )

    def mend(self, a: str, b: str) -> None:
        self.log.append(f"mend {a} {b}")
        self.cut_at, self.mended_at = None, self.now_ns

    @contextmanager
    def client(self, name: str) -> Iterator[demo.Client]:
        self.log.append(f"client {name}")
        with self.record.open("w") as out:
            for flow, port in (("tcp", 41), ("udp", 42)):
                out.write(
                    json.dumps({"event": "open", "flow": flow, "at_ns": self.now_ns, "local_port": port})
                    + "\n"
                )
        self.open = True
        yield demo.Client(None, self.record)  # type: ignore[arg-type]
        self.open = False


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    clock = SimpleNamespace(
        sleep=world.sleep, monotonic_ns=lambda: world.now_ns, monotonic=lambda: world.now_ns / 1e9
    )
    monkeypatch.setattr(demo, "time", clock)
    monkeypatch.setattr(daemons, "time", clock)
    monkeypatch.setattr(daemons, "ask", world.ask)
    monkeypatch.setattr(daemons, "tell", world.tell)
    monkeypatch.setattr(demo.Demo, "_client", lambda _, name: world.client(name))
    monkeypatch.setattr(demo.Demo, "_download", lambda _: {"mbit_s": 9.0})
    return world


def tell(world: World) -> dict[str, Any]:
    progress: list[str] = []
    told = demo.Demo(world, STORY, progress.append)  # type: ignore[arg-type]
    told.tell()
    return demo.report(told, world.now_ns / 1e9) | {"progress": progress}


def test_a_fleet_that_does_what_it_should_gets_a_good_report(world: World) -> None:
    report = tell(world)
    assert report["failed"] == []
    assert world.log == [
        "origin at origin", "smart routing off", "client off", "smart routing on", "client on",
        f"cut {INGRESS} {TRANSIT}", f"mend {INGRESS} {TRANSIT}",
    ]  # fmt: skip
    off, on, cut, mend = report["steps"]
    assert (off["path"], on["path"], cut["path"], mend["path"]) == (DIRECT, DETOUR, DIRECT, DETOUR)
    assert off["tcp"]["rtt_ms_p50"] == pytest.approx(STORY.path_rtt_ms(DIRECT), abs=0.1)
    assert on["udp"]["rtt_ms_p50"] == pytest.approx(STORY.path_rtt_ms(DETOUR), abs=0.1)
    assert cut["udp"]["lost"] == OUTAGE_NS // TICK_NS - 1
    assert cut["tcp"]["lost"] == 0
    assert OUTAGE_NS / 1e6 <= cut["udp"]["longest_gap_ms"] <= OUTAGE_NS / 1e6 + 400
    assert all(4 <= after <= 5 for after in mend["returned_after_s"].values())
    assert report["seconds"] < 60


def test_flows_that_stay_where_they_are_after_the_repair_are_fine(world: World) -> None:
    world.return_after_ns = 10**15
    report = tell(world)
    assert report["ok"]
    assert report["steps"][3]["returned_after_s"] == {"tcp": None, "udp": None}


def test_a_reset_at_the_cut_fails_the_demo(world: World) -> None:
    world.resets_on_cut = True
    report = tell(world)
    assert "tcp: cut without a reset" in report["failed"]
    assert report["steps"][2]["tcp"]["resets"] == 1


def test_routes_that_never_come_fail_the_demo_and_do_not_stop_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "path", DIRECT)
    report = tell(world)
    assert not report["ok"]
    assert [step["path"] for step in report["steps"]] == [DIRECT] * 4
    assert world.log[-2] == f"cut {INGRESS} {EGRESS}"


def test_links_that_stay_down_end_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "ask", lambda *_: {"links": []})
    with pytest.raises(LabError, match="every link is up and measured: not within 30 s"):
        tell(world)


def test_a_window_with_a_late_emulator_is_measured_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo never fails for a busy machine, but it does not show its first figures either."""
    answers = iter([5000, 5000, 5000, 90])

    def stats(*, reset: bool = False) -> dict[str, Any]:
        del reset
        return {
            "lateness": {
                "packets": 1,
                "late_packets": 0,
                "p50_us": 1,
                "p99_us": next(answers, 90),
                "max_us": 5000,
            }
        }

    monkeypatch.setattr(world, "stats", stats)
    report = tell(world)
    assert sum("measuring once more" in line for line in report["progress"]) == 1
    assert report["ok"]
    assert report["emulator"]["late_us_p99"] == 90
