"""The demo's verdict and its report, on steps as they should be and as they should not."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from l4proxy.lab import demo, report
from l4proxy.lab.network import Network
from l4proxy.lab.plan import make_plan
from l4proxy.lab.spec import LabSpec
from l4proxy.lab.state import Run, State
from l4proxy.lab.story import Story

STORY = Story.from_map()
INGRESS, TRANSIT, EGRESS = STORY.pops
DIRECT, DETOUR = [INGRESS, EGRESS], [INGRESS, TRANSIT, EGRESS]


def flow(rtt_ms: float, lost: int = 0, gap_ms: float = 25.0, resets: int = 0) -> dict[str, Any]:
    return {
        "sent": 300, "received": 300 - lost, "lost": lost, "loss_ratio": lost / 300, "rtt_ms_p50": rtt_ms, "rtt_ms_p99": rtt_ms + 5,
        "longest_gap_ms": gap_ms, "resets": resets,
    }  # fmt: skip


def step(name: str, path: list[str], tcp: dict[str, Any], udp: dict[str, Any], **more: Any) -> dict[str, Any]:
    bulk = {"bytes": 1000, "longest_gap_ms": 40.0, "resets": 0}
    late = {
        "packets": 2500,
        "late_packets": 2,
        "p50_us": 20,
        "p99_us": 130 if name == "cut" else 90,
        "max_us": 2400,
    }
    return {
        "name": name,
        "path": path,
        "path_rtt_ms": STORY.path_rtt_ms(path),
        "tcp": tcp,
        "udp": udp,
        "bulk": bulk,
        "emulator": late,
    } | more


GOOD = [
    step("smart_routing_off", DIRECT, flow(330), flow(324, 14), download={"mbit_s": 3.2}),
    step("smart_routing_on", DETOUR, flow(216), flow(215), download={"mbit_s": 15.0}),
    step("cut", DIRECT, flow(340, gap_ms=700), flow(324, 40, gap_ms=650), cut=[INGRESS, TRANSIT]),
    step(
        "mend", DETOUR, flow(216), flow(215), returned_after_s={"tcp": 2.0, "udp": 6.0}, resets_since_mend=0
    ),
]


def test_the_lab_file_of_the_story_is_valid_and_loses_there_and_back_what_was_measured() -> None:
    plan = make_plan(LabSpec.model_validate(STORY.document()))
    link = plan.links[f"{INGRESS}/a>{EGRESS}/a"].properties
    pair = STORY.pair(INGRESS, EGRESS)
    assert 1 - (1 - link.loss_ratio) ** 2 == pytest.approx(pair.loss_ratio)
    # The emulator's extra delays have this mean in each direction.
    assert (link.delay_ns + link.jitter_ns) * 2 / 1e6 == pytest.approx(pair.rtt_ms, abs=0.02)
    assert link.jitter_ns * 1.5 / 1e6 == pytest.approx(pair.jitter_ms, abs=0.01)
    assert plan.apps[0]["origins"] == [f"{plan.hosts['origin'].ipv4}:7777"]


def test_the_detour_is_shorter_on_the_map() -> None:
    assert STORY.path_rtt_ms(DETOUR) < STORY.path_rtt_ms(DIRECT) - 100


def test_a_good_run_has_nothing_to_complain_about() -> None:
    assert demo.verdict(GOOD, STORY) == []


def change(index: int, *keys: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    def apply(steps: list[dict[str, Any]]) -> None:
        place = steps[index]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda steps: steps.pop(), "mend: never reached"),
        (change(0, "path", value=DETOUR), "off goes direct"),
        (change(1, "path", value=DIRECT), "on goes over"),
        (change(1, "path", value=[]), "on goes over"),
        (change(1, "udp", "rtt_ms_p50", value=330.0), "udp: RTT on is lower"),
        (change(1, "tcp", "rtt_ms_p50", value=None), "tcp: RTT on is lower"),
        (change(2, "path", value=DETOUR), "the cut link"),
        (change(2, "tcp", "resets", value=1), "tcp: cut without a reset"),
        (change(2, "bulk", "resets", value=1), "bulk: cut without a reset"),
        (change(2, "tcp", "lost", value=3), "tcp: cut complete and in order"),
        (change(2, "udp", "longest_gap_ms", value=7900.0), "udp: goes on through the cut"),
        (change(3, "udp", "received", value=0), "udp: goes on after the repair"),
        (change(3, "resets_since_mend", value=1), "no reset after the repair"),
    ],
)
def test_each_claim_is_checked(spoil: Callable[[list[dict[str, Any]]], Any], complaint: str) -> None:
    steps = copy.deepcopy(GOOD)
    spoil(steps)
    assert any(claim.startswith(complaint) for claim in demo.verdict(steps, STORY)), demo.verdict(
        steps, STORY
    )


@pytest.fixture
def told(tmp_path: Any) -> demo.Demo:
    state = State("r", "m", "demo", "root", "tun", None, STORY.document())
    network = Network.attach(Run(tmp_path, state))
    return demo.Demo(network, STORY, lambda _: None, steps=GOOD)


def test_the_report_has_what_the_interface_promises(told: demo.Demo) -> None:
    document = demo.report(told, 71.26)
    assert [s["name"] for s in document["steps"]] == ["smart_routing_off", "smart_routing_on", "cut", "mend"]
    assert document["emulator"] == {
        "late_us_p99": 130,
        "late_us_max": 2400,
        "late_packets": 8,
        "packets": 10_000,
    }
    assert (document["ok"], document["failed"], document["seconds"]) == (True, [], 71.3)
    assert {pop["name"] for pop in document["topology"]["pops"]} == set(STORY.pops)


def rendered(document: dict[str, Any], encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    report.render(document, Console(file=out, width=120, no_color=True, legacy_windows=False))
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue().decode(encoding)


def test_people_see_every_step_its_path_and_the_cut(told: demo.Demo) -> None:
    text = rendered(demo.report(told, 71.0))
    assert text.count("client ─ Delhi NCR (del)") == 4
    assert "╳ 69 ms, cut ╳" in text
    assert "del > sgp > syd" in text
    assert "0 resets; longest silence TCP 700 ms, UDP 650 ms" in text
    assert "UDP was back on its path within 6 s" in text
    assert "NOT AS IT SHOULD BE" not in text


def test_a_terminal_without_unicode_gets_plain_lines(told: demo.Demo) -> None:
    text = rendered(demo.report(told, 71.0), "ascii")
    assert "client - Delhi NCR (del) ====" in text


def test_what_failed_and_a_busy_machine_are_said(told: demo.Demo) -> None:
    document = demo.report(told, 71.0)
    document["failed"] = ["udp: goes on through the cut"]
    document["emulator"]["late_us_p99"] = 5000
    document["steps"] = copy.deepcopy(GOOD)
    document["steps"][3]["returned_after_s"] = {"tcp": 1.0, "udp": None}
    document["steps"][3]["udp"]["path"] = DIRECT
    text = rendered(document)
    assert "NOT AS IT SHOULD BE: udp: goes on through the cut" in text
    assert "too busy" in text
    assert "TCP was back on its path within 1 s, UDP stayed where it was" in text
    assert "UDP: del > syd" in text


def test_a_loopback_report_is_shown_without_pictures() -> None:
    local = {"name": "local", "path": ["local"], "tcp": flow(0.4), "udp": flow(0.3)}
    document = {
        "topology": {"pops": [], "links": [], "app": "echo", "source": "one PoP on loopback: nothing is emulated"},
        "steps": [local], "emulator": {"late_us_p99": 0, "late_us_max": 0, "late_packets": 0, "packets": 0}, "failed": [], "ok": True,
    }  # fmt: skip
    text = rendered(document)
    assert "No WAN here: one PoP on loopback" in text
    assert "Delhi" not in text
