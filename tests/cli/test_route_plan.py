"""`l4proxy route plan` and `route record`: what they print, and what they refuse."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l4proxy.cli import exits
from l4proxy.config.histories import HistorySlices, read_history
from l4proxy.core.ids import PopName
from l4proxy.core.link_history import Writer, header_of
from l4proxy.core.routing.links import LinkTable, pairs_table
from l4proxy.errors import ConfigError
from tests.api.backend import FakeBackend
from tests.cli.conftest import Run

SLICE = Path(__file__).parents[2] / "l4proxy/lab/data/slices/20260808-192841.csv"
POPS = tuple(map(PopName, ("ams", "iad", "sin")))
PLACES: dict[PopName, tuple[float, float] | None] = {
    POPS[0]: (52.3, 4.8), POPS[1]: (38.9, -77.4), POPS[2]: (1.4, 103.9),
}  # fmt: skip


def recorded(folder: Path, minutes: int = 31, tail: bytes = b"") -> Path:
    """A history of three PoPs, one moment a minute, in which ams and sin are 170 ms apart, and 120 over iad."""
    ends = np.array([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)], np.int32).T
    first = pairs_table(POPS, ends[0], ends[1], np.array([80.0, 170, 80, 40, 170, 40]))
    out = Writer(header_of("fleet", POPS[0], 60, PLACES, first))
    moments = [out.moment(1_764_547_200 + 60 * n, drifted(first, n)) for n in range(minutes)]
    folder.mkdir()
    (folder / "1764547200.links").write_bytes(out.begin() + b"".join(moments) + tail)
    return folder


def drifted(table: LinkTable, minute: int) -> LinkTable:
    return replace(table, rtt_ms=table.rtt_ms + 0.01 * minute)


def test_a_pop_less_and_a_link_less_on_a_slice(run: Run) -> None:
    code, out, _ = run("route", "plan", str(SLICE), "--drop-pop", "sgp", "--drop-link", "ams-lhr", "--json")
    answer = json.loads(out)
    assert code == exits.OK
    assert answer["pairs"] == 28 * 27
    assert (answer["better"], answer["out_of_reach"]) == (0, [])
    assert answer["worse"] > 0
    assert answer["after"]["mean_ms"] > answer["before"]["mean_ms"]
    (worst, *_) = answer["most"]
    assert worst["after_ms"] > worst["before_ms"]
    assert "sgp" in worst["before"]
    assert "sgp" not in worst["after"]
    code, out, _ = run("route", "plan", str(SLICE), "--drop-pop", "sgp")
    assert code == exits.OK
    assert f"{worst['from']}>{worst['to']}" in out


def test_a_pop_more_is_modelled_and_its_error_said(run: Run) -> None:
    code, out, _ = run("route", "plan", str(SLICE), "--add-pop", "cpt=-33.9,18.4", "--json")
    answer = json.loads(out)
    assert code == exits.OK
    assert 0 < answer["model"]["error_ratio_p50"] < answer["model"]["error_ratio_p90"] < 1
    assert (answer["worse"], answer["out_of_reach"]) == (0, [])
    assert answer["better"] > 0
    assert "cpt" in answer["most"][0]["after"]
    assert "off by" in run("route", "plan", str(SLICE), "--add-pop", "cpt=-33.9,18.4")[1]


def test_advice_is_of_the_candidates_in_the_file(run: Run, tmp_path: Path) -> None:
    sites = tmp_path / "sites.csv"
    sites.write_text("pop,latitude,longitude\ncpt,-33.9,18.4\nhkg,22.3,114.2\n")
    code, out, _ = run("route", "plan", str(SLICE), "--advise", "2", "--candidates", str(sites), "--json")
    answer = json.loads(out)
    assert (code, answer["candidates"]) == (exits.OK, 2)
    assert answer["advice"][0]["site"] in ("cpt", "hkg")
    assert answer["advice"][0]["mean_gain_ms"] > 0
    assert "none of 0 candidates" in run("route", "plan", str(SLICE), "--advise", "1")[2]


def test_plan_takes_the_newest_moment_that_the_daemon_has_recorded(
    run: Run, backend: FakeBackend, tmp_path: Path
) -> None:
    backend.history_answer["directory"] = str(recorded(tmp_path / "history"))
    code, out, _ = run("route", "plan", "--drop-pop", "iad", "--json")
    answer = json.loads(out)
    assert code == exits.OK
    assert answer["before"]["pairs"] == answer["after"]["pairs"] == 2
    assert (answer["most"][0]["before_ms"], answer["most"][0]["after_ms"]) == (
        pytest.approx(121.6, abs=0.1),
        170.3,
    )


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), exits.USAGE, "what if what"),
        (("--drop-pop", "nowhere"), exits.FAILED, "there is no PoP 'nowhere'"),
        (("--drop-link", "ams-nowhere"), exits.FAILED, "there is no link 'ams-nowhere'"),
        (("--add-pop", "x"), exits.USAGE, "write NAME=LAT,LON"),
        (("--add-pop", "x=91,0"), exits.FAILED, "latitude is from -90 to 90"),
        (("--add-pop", "ams=1,1"), exits.FAILED, "'ams' is there already"),
        (("--advise", "1", "--candidates", "/nowhere.csv"), exits.FAILED, "nowhere.csv"),
    ],
)
def test_what_cannot_be_asked_is_said(run: Run, options: tuple[str, ...], code: int, said: str) -> None:
    found, _, err = run("route", "plan", str(SLICE), *options)
    assert found == code
    assert said in " ".join(err.replace("│", " ").split())


def test_record_tells_what_there_is_and_replay_reads_it(
    run: Run, backend: FakeBackend, tmp_path: Path
) -> None:
    folder = recorded(tmp_path / "history", tail=b"\0\0\1\0torn")
    backend.history_answer |= {"directory": str(folder), "bytes": 5_000}
    code, out, _ = run("route", "record", "--json")
    answer = json.loads(out)
    assert code == exits.OK
    assert (answer["moments"], answer["links"], answer["first"]) == (31, 6, "2025-12-01T00:00:00Z")
    assert "31 moments of 6 links" in run("route", "record")[1]
    code, out, err = run("route", "replay", str(folder), "--interval", "600s", "--class", "rtt", "--json")
    found = json.loads(out)
    assert (code, found["slices"], found["pairs"]) == (exits.OK, 4, 6)
    assert found["direct_regret_ratio"] > 0.1
    assert found["each"][0]["file"] == "2025-12-01T00:10:00Z"
    assert "torn" in err


def test_an_export_is_slices_that_replay_reads_as_well(
    run: Run, backend: FakeBackend, tmp_path: Path
) -> None:
    backend.history_answer["directory"] = str(recorded(tmp_path / "history"))
    target = tmp_path / "slices"
    code, out, _ = run("route", "record", "--export", str(target), "--since", "20m", "--interval", "10m")
    assert code == exits.OK
    assert "3 slices exported" in out
    files = sorted(str(file) for file in target.glob("2*.csv"))
    assert len(files) == 3
    options = ("--locations", str(target / "locations.csv"), "--json")
    assert json.loads(run("route", "replay", *files, *options)[1])["slices"] == 3
    code, _, err = run("route", "record", "--export", str(target))
    assert code == exits.USAGE
    assert "not an empty folder" in " ".join(err.replace("│", " ").split())


def test_a_daemon_that_has_recorded_nothing_says_so(run: Run) -> None:
    code, out, _ = run("route", "record")
    assert code == exits.OK
    assert "nothing is recorded yet" in out


def test_what_is_no_history_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no moment is recorded there"):
        read_history([tmp_path])
    (tmp_path / "1.links").write_bytes(b"not one of ours")
    with pytest.raises(ConfigError, match=r"1\.links.*does not begin as a recorded history does"):
        read_history([tmp_path / "1.links"])
    good = recorded(tmp_path / "history")
    (good / "2.links").write_bytes(b"")
    kept = read_history([good])
    assert len(kept.segments) == 1
    assert list(kept.skipped.counts.values()) == [1], "beside good ones it is passed over and counted"


def test_of_several_links_a_slice_has_the_fastest_that_is_up(tmp_path: Path) -> None:
    ends = np.array([0, 0, 0, 1, 1], np.int32)
    links = pairs_table(POPS[:2], np.array([0, 1], np.int32), np.array([1, 0], np.int32), np.ones(2))
    names = ("ams/a>iad/a", "ams/b>iad/b", "ams/c>iad/c", "iad/a>ams/a", "iad/b>ams/b")
    several = replace(
        links, names=names, start=ends, end=1 - ends, usable=np.array([True, True, False, False, False]),
        labelled=np.ones(5, bool), rtt_ms=np.array([90.0, 80, 70, 60, np.nan]), rtt_ms_now=np.ones(5),
        jitter_ms=np.arange(5.0), loss_ratio=np.zeros(5), load_bits_s=np.zeros(0), capacity_bits_s=np.zeros(0),
        price=np.zeros(0), index=None,
    )  # fmt: skip
    out = Writer(header_of("fleet", POPS[0], 60, {}, several))
    (tmp_path / "7.links").write_bytes(out.begin() + out.moment(7, several))
    (found,) = HistorySlices.of(read_history([tmp_path]), 60).slices()
    assert found.rtt_ms[0, 1] == 80
    assert found.jitter_ms is not None
    assert found.jitter_ms[0, 1] == 1
    assert found.rtt_ms[1, 0] == np.inf, "one is down and one was never measured"
