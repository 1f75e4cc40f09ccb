"""Recorded matrices: what is read, what is skipped and counted, what is refused with its place."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.config import slices
from l4proxy.config.slices import read_locations, read_slices
from l4proxy.errors import ConfigError, L4ProxyError

NAN, INF = float("nan"), float("inf")


def write(folder: Path, *texts: str) -> list[Path]:
    """Write files `1.csv`, `2.csv`…"""
    files = [folder / f"{number}.csv" for number in range(1, len(texts) + 1)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


def test_rows_become_a_matrix_in_the_order_of_names(tmp_path: Path) -> None:
    recorded = read_slices(write(tmp_path, "from,to,rtt_ms\nb,a,2\na,b,1.5\nc,a,3e1\n"))
    assert recorded.pops == ("a", "b", "c")
    (only,) = recorded.slices()
    assert np.array_equal(only.rtt_ms, [[NAN, 1.5, NAN], [2, NAN, NAN], [30, NAN, NAN]], equal_nan=True)
    assert only.jitter_ms is None
    assert only.loss_ratio is None
    assert recorded.skipped.counts == {}


def test_columns_come_in_any_order_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    text = "\ufeffloss_ratio,to,colour,rtt_ms,from,jitter_ms\n0.5,b,red,7,a,0.25\n,a,,9,b,\n"
    (only,) = read_slices(write(tmp_path, text)).slices()
    assert only.rtt_ms[0, 1] == 7
    assert only.jitter_ms is not None
    assert only.loss_ratio is not None
    assert (only.jitter_ms[0, 1], only.loss_ratio[0, 1]) == (0.25, 0.5)
    assert np.isnan(only.jitter_ms[1, 0])
    assert np.isnan(only.loss_ratio[1, 0])


def test_pops_of_all_slices_are_one_set_and_a_missing_pair_was_not_measured(tmp_path: Path) -> None:
    recorded = read_slices(write(tmp_path, "from,to,rtt_ms\nb,c,1\n", "from,to,rtt_ms\na,c,2\n"))
    first, second = recorded.slices()
    assert recorded.pops == ("a", "b", "c")
    assert first.rtt_ms[1, 2] == 1
    assert second.rtt_ms[0, 2] == 2
    assert np.isnan(second.rtt_ms[1, 2])


@pytest.mark.parametrize(
    ("row", "rtt", "reason"),
    [
        ("a,b,,0", INF, "did not answer"),
        ("a,b,12,1", INF, "did not answer"),
        ("a,b,-3,0", NAN, "rtt_ms is not above 0"),
        ("a,b,0,0", NAN, "rtt_ms is not above 0"),
        ("a,b,nan,0", NAN, "rtt_ms is not above 0"),
        ("a,b,inf,0", NAN, "rtt_ms is not above 0"),
        ("a,b,1e9,0", NAN, "rtt_ms is not above 0"),
        ("a,b,12,7", 12.0, "loss_ratio is not from 0 to 1"),
    ],
)
def test_what_says_nothing_usable_is_skipped_and_counted_with_its_place(
    tmp_path: Path, row: str, rtt: float, reason: str
) -> None:
    recorded = read_slices(write(tmp_path, f"from,to,rtt_ms,loss_ratio\nb,a,5,0\n{row}\n"))
    (only,) = recorded.slices()
    assert np.array_equal(only.rtt_ms, [[NAN, rtt], [5, NAN]], equal_nan=True)
    ((found, number),) = recorded.skipped.counts.items()
    assert (found.startswith(reason), number) == (True, 1)
    assert recorded.skipped.first[found] == f"{tmp_path}/1.csv:3"


def test_a_pop_with_itself_is_skipped_and_counted(tmp_path: Path) -> None:
    recorded = read_slices(write(tmp_path, "from,to,rtt_ms\na,a,0.02\na,b,1\n"))
    assert recorded.skipped.counts["a PoP with itself"] == 1
    assert np.isnan(next(recorded.slices()).rtt_ms[0, 0])


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", 1, "the header has no column from, to, rtt_ms"),
        ("from,to,ms\na,b,1\n", 1, "the header has no column rtt_ms"),
        ("from,to,rtt_ms,rtt_ms\na,b,1,2\n", 1, "twice"),
        ("from,to,rtt_ms\n", 2, "has no rows"),
        ("from,to,rtt_ms\na,b,1\na,c\n", 3, "has 2 fields, the header has 3"),
        ("from,to,rtt_ms\na,b,1\n\na,c,fast\n", 4, "rtt_ms is not a number (got 'fast')"),
        ("from,to,rtt_ms\na,b,1\na,c,2\na,b,3\n", 4, "a to b stands here twice, first in line 2"),
        ("from,to,rtt_ms\na>c,b,1\n", 2, "a PoP is named by"),
        ("from,to,rtt_ms\n,b,1\n", 2, "a PoP is named by"),
        (f"from,to,rtt_ms\na,{'b' * 65},1\n", 2, "a PoP is named by"),
        ('from,to,rtt_ms\n"a\nx",b,1\n', 2, "a quoted field"),
    ],
)
def test_what_cannot_be_a_slice_is_refused_with_file_and_line(
    tmp_path: Path, text: str, place: int, reason: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read_slices(write(tmp_path, "from,to,rtt_ms\na,b,1\n", text))
    (fault,) = refused.value.faults
    assert (fault.file, fault.line) == (f"{tmp_path}/2.csv", place)
    assert reason in str(fault)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (file,) = write(tmp_path, "")
    file.write_bytes(b"from,to,rtt_ms\na,b,1\n\xff\xfe,b,1\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_slices([file])


def test_more_rows_or_pops_than_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path, "from,to,rtt_ms\na,b,1\na,c,1\n", "from,to,rtt_ms\na,b,1\na,c,1\n")
    monkeypatch.setattr(slices, "MAX_ROWS", 3)
    with pytest.raises(L4ProxyError, match=r"2\.csv: more than 3 rows in all slices"):
        read_slices(files)
    monkeypatch.setattr(slices, "MAX_ROWS", 100)
    monkeypatch.setattr(slices, "MAX_POPS", 2)
    with pytest.raises(ConfigError, match="more than 2 PoPs"):
        read_slices(files)


def test_rows_beyond_one_batch_keep_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_BATCH", 2)
    text = "from,to,rtt_ms\n" + "".join(f"p{i},q,{i + 1}\n" for i in range(7)) + "p3,q,9\n"
    with pytest.raises(ConfigError, match=r":9:1: p3 to q stands here twice, first in line 5"):
        read_slices(write(tmp_path, text))


def test_an_rtt_below_light_in_fibre_is_skipped_where_both_locations_are_known(tmp_path: Path) -> None:
    places = tmp_path / "places.csv"
    places.write_text("pop,latitude,longitude\nams,52.31,4.76\nsin,1.36,103.99\n")
    text = "from,to,rtt_ms\nams,sin,1\nsin,ams,170\nams,moon,1\n"
    recorded = read_slices(write(tmp_path, text), read_locations(places))
    assert recorded.skipped.counts == {"rtt_ms is below that of light in fibre": 1}
    matrix = next(recorded.slices()).rtt_ms
    assert np.isnan(matrix[0, 2])
    assert (matrix[2, 0], matrix[0, 1]) == (170, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pop,lat\na,1\n", "the header has no column latitude, longitude"),
        ("pop,latitude,longitude\na,x,1\n", ":2:1: a row needs a PoP and two numbers"),
        ("pop,latitude,longitude\na,91,1\n", ":2:1: latitude is from"),
        ("pop,latitude,longitude\na,1,1\na,1,1\n", ":3:1: PoP a stands here twice"),
    ],
)
def test_locations_that_are_wrong_are_refused_with_their_line(tmp_path: Path, text: str, reason: str) -> None:
    (file,) = write(tmp_path, text)
    with pytest.raises(ConfigError, match=reason):
        read_locations(file)


@given(st.text(alphabet='ab,\n"1.-en \r\t', max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        recorded = read_slices(write(folder, "from,to,rtt_ms\n" + text))
    except ConfigError:
        return
    matrix = next(recorded.slices()).rtt_ms
    assert not (matrix <= 0).any()
