"""Recorded matrices (CSV files, one a slice) → `core.replay_policies.Slice`, or an error with file and line.

What a hole is, is skipped and counted: a row without RTT or with loss 1 (it did not answer), an RTT that no network can have, a PoP with
itself. What a file must not be is refused: no header, a row with other columns, text where a number belongs, a pair twice.
Memory: 24 bytes a row, of MAX_ROWS at most in all files; then up to three matrices of PoPs × PoPs a slice, one slice at a time.
"""

import csv
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from l4proxy.core.estimate import EARTH_RADIUS_KM, LIGHT_IN_FIBRE_KM_PER_MS, LOCATION_SLACK_MS
from l4proxy.core.ids import PopName
from l4proxy.core.replay_policies import Slice
from l4proxy.core.routing.links import LinkTable, pairs_table
from l4proxy.errors import ConfigError, Fault, L4ProxyError

MAX_ROWS = 60_000_000
"""Of all files together: 1.5 GB while they are read."""

MAX_POPS = 4_000
"""A matrix of 4,000 × 4,000 is 128 MB, and a search through it takes minutes."""

MAX_RTT_MS = 60_000.0
"""A minute: no packet lives longer in the Internet (RFC 9293 section 3.4.1 takes two for the worst case, one way and back)."""

MAX_NAME = 64
_BATCH = 8_192
_NEEDED = ("from", "to", "rtt_ms")
_OPTIONAL = ("jitter_ms", "loss_ratio")


@dataclass(slots=True)
class Skipped:
    """Rows that say nothing usable, by reason, over all files; and where the first of each stands."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, number: int, place: str) -> None:
        """Count `number` more; `place` is `file:line` of the first of them."""
        if number:
            self.counts[reason] = self.counts.get(reason, 0) + number
            self.first.setdefault(reason, place)


@dataclass(frozen=True, slots=True)
class _Rows:
    """One file: numbers of PoPs in the reader's own order, and values. RTT NaN: impossible; inf: no answer."""

    start: NDArray[np.int32]
    end: NDArray[np.int32]
    rtt_ms: NDArray[np.float64]
    jitter_ms: NDArray[np.float32] | None
    loss_ratio: NDArray[np.float32] | None


@dataclass(slots=True)
class Recorded:
    """All slices. `slices()` makes the matrices one by one; PoPs are in the order of their names."""

    pops: tuple[str, ...]
    skipped: Skipped
    answered: int
    """Rows with an RTT, in all files."""
    labels: tuple[str, ...]
    """The files."""
    _files: list[_Rows]
    _place: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self._files)

    def slices(self) -> Iterator[Slice]:
        """Return the slices in order."""
        n = len(self.pops)
        for rows in self._files:
            at = self._place[rows.start].astype(np.int64) * n + self._place[rows.end]
            yield Slice(
                rtt_ms=_matrix(n, at, rows.rtt_ms),
                jitter_ms=None if rows.jitter_ms is None else _matrix(n, at, rows.jitter_ms),
                loss_ratio=None if rows.loss_ratio is None else _matrix(n, at, rows.loss_ratio),
            )


def _matrix(
    n: int, at: NDArray[np.int64], values: NDArray[np.float32] | NDArray[np.float64]
) -> NDArray[np.float64]:
    matrix = np.full(n * n, np.nan)
    matrix[at] = values
    return matrix.reshape(n, n)


def read_locations(path: Path) -> dict[str, tuple[float, float]]:
    """Return (latitude, longitude) in degrees by PoP, from a CSV with the columns `pop` (or `site`), `latitude`, `longitude`."""
    found: dict[str, tuple[float, float]] = {}
    with _opened(path) as text:
        reader = csv.reader(text)
        header = next(reader, [])
        name = "site" if "site" in header else "pop"
        at = _columns(path, header, (name, "latitude", "longitude"))
        for row in reader:
            if not row:
                continue
            try:
                where = (float(row[at["latitude"]]), float(row[at["longitude"]]))
            except (ValueError, IndexError):
                raise _fault(path, reader.line_num, "a row needs a PoP and two numbers in degrees") from None
            if not (abs(where[0]) <= 90 and abs(where[1]) <= 180):
                raise _fault(path, reader.line_num, "latitude is from -90 to 90, longitude from -180 to 180")
            if row[at[name]] in found:
                raise _fault(path, reader.line_num, f"PoP {row[at[name]]} stands here twice")
            found[row[at[name]]] = where
    return found


def read_slices(paths: Sequence[Path], locations: dict[str, tuple[float, float]] | None = None) -> Recorded:
    """Read all files, or raise ConfigError with file and line. With `locations`, RTTs below light in fibre are skipped."""
    numbers: dict[str, int] = {}
    skipped = Skipped()
    files: list[_Rows] = []
    total = 0
    with _without_collector():
        for path in paths:
            rows = _FileReader(path, numbers, skipped, MAX_ROWS - total, locations or {}).read()
            files.append(rows)
            total += len(rows.start)
    names = tuple(sorted(numbers))
    place = np.empty(len(names), np.int32)
    place[[numbers[name] for name in names]] = np.arange(len(names), dtype=np.int32)
    answered = sum(int(np.isfinite(rows.rtt_ms).sum()) for rows in files)
    return Recorded(names, skipped, answered, tuple(map(str, paths)), files, place)


_Batch = dict[str, NDArray[Any]]


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of short rows make the collector of cycles look at everything again and again, and half of the time is its."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _FileReader:
    """Reads one file in batches of rows, whole columns at a time."""

    def __init__(
        self,
        path: Path,
        numbers: dict[str, int],
        skipped: Skipped,
        may_read: int,
        locations: dict[str, tuple[float, float]],
    ) -> None:
        self._path = path
        self._locations = locations
        self._numbers = numbers
        self._skipped = skipped
        self._may_read = may_read

    def read(self) -> _Rows:
        """Return its rows."""
        with _opened(self._path) as text:
            reader = csv.reader(text)
            try:
                header = [name.strip() for name in next(reader, [])]
                at = _columns(self._path, header, _NEEDED)
                optional = {name: header.index(name) for name in _OPTIONAL if name in header}
                batches = list(self._batches(reader, at | optional, len(header)))
            except csv.Error as error:
                raise _fault(self._path, reader.line_num, f"is not CSV: {error}") from error
            except UnicodeDecodeError as error:
                raise _fault(self._path, reader.line_num + 1, "is not UTF-8 text") from error
        if not batches:
            raise _fault(self._path, 2, "has no rows: a slice is one row a directed pair")
        start, end, rtt, line = (
            np.concatenate([batch[name] for batch in batches]) for name in ("start", "end", "rtt_ms", "line")
        )
        self._refuse_twice(start, end, line)
        return _Rows(
            start,
            end,
            self._possible(start, end, rtt, line),
            *(np.concatenate([b[name] for b in batches]) if name in optional else None for name in _OPTIONAL),
        )

    def _batches(self, reader: Any, at: dict[str, int], width: int) -> Iterator[_Batch]:
        taken = 0
        while True:
            before = reader.line_num
            rows = list(islice(reader, _BATCH))
            if not rows:
                return
            lines = np.arange(before + 1, before + 1 + len(rows), dtype=np.int32)
            if reader.line_num - before != len(rows):
                raise _fault(
                    self._path,
                    before + 1,
                    "a quoted field runs over the end of its line, within the next rows",
                )
            if not all(map(len, rows)):
                kept = [i for i, row in enumerate(rows) if row]
                rows, lines = [rows[i] for i in kept], lines[kept]
                if not rows:
                    continue
            taken += len(rows)
            if taken > self._may_read:
                raise L4ProxyError(
                    f"{self._path}: more than {MAX_ROWS:,} rows in all slices; give fewer slices, or fewer PoPs"
                )
            yield self._batch(rows, lines, at, width)

    def _batch(
        self, rows: list[list[str]], lines: NDArray[np.int32], at: dict[str, int], width: int
    ) -> _Batch:
        if set(map(len, rows)) != {width}:
            wrong = next(i for i, row in enumerate(rows) if len(row) != width)
            what = f"has {len(rows[wrong])} fields, the header has {width}"
            raise _fault(self._path, int(lines[wrong]), what)
        columns = list(zip(*rows, strict=True))
        batch: _Batch = {
            "start": self._pops(columns[at["from"]], lines),
            "end": self._pops(columns[at["to"]], lines),
            "rtt_ms": self._numbers_of(columns[at["rtt_ms"]], lines, "rtt_ms"),
            "line": lines,
        }
        # `nan` is a value that no network can have; an empty field says that none came.
        missing = np.isnan(batch["rtt_ms"])
        batch["is_empty"] = (
            missing & np.array([not text.strip() for text in columns[at["rtt_ms"]]])
            if missing.any()
            else missing
        )
        for name in _OPTIONAL:
            if name in at:
                batch[name] = self._numbers_of(columns[at[name]], lines, name)
        self._mend(batch)
        keep = batch["start"] != batch["end"]
        self._skip("a PoP with itself", ~keep, lines)
        return {name: values[keep] for name, values in batch.items()}

    def _mend(self, batch: _Batch) -> None:
        """Impossible values become NaN (not measured), pairs that did not answer inf; both are counted."""
        rtt, lines = batch["rtt_ms"], batch["line"]
        silent = batch.pop("is_empty")
        loss = batch.get("loss_ratio")
        if loss is not None:
            bad = ~((loss >= 0) & (loss <= 1)) & ~np.isnan(loss)
            self._skip("loss_ratio is not from 0 to 1: taken as unknown", bad, lines)
            loss[bad] = np.nan
            silent |= loss == 1
            batch["loss_ratio"] = loss.astype(np.float32)
        jitter = batch.get("jitter_ms")
        if jitter is not None:
            bad = ~((jitter >= 0) & (jitter <= MAX_RTT_MS)) & ~np.isnan(jitter)
            self._skip("jitter_ms cannot be: taken as unknown", bad, lines)
            jitter[bad] = np.nan
            batch["jitter_ms"] = jitter.astype(np.float32)
        impossible = ~silent & ~((rtt > 0) & (rtt <= MAX_RTT_MS))
        self._skip(f"rtt_ms is not above 0 and at most {MAX_RTT_MS:g}", impossible, lines)
        self._skip("did not answer", silent, lines)
        rtt[impossible] = np.nan
        rtt[silent] = np.inf

    def _pops(self, names: tuple[str, ...], lines: NDArray[np.int32]) -> NDArray[np.int32]:
        try:
            return np.fromiter(map(self._numbers.__getitem__, names), np.int32, len(names))
        except KeyError:
            for name in dict.fromkeys(names):
                if name not in self._numbers:
                    self._check_name(name, names, lines)
                    self._numbers[name] = len(self._numbers)
        return np.fromiter(map(self._numbers.__getitem__, names), np.int32, len(names))

    def _check_name(self, name: str, names: tuple[str, ...], lines: NDArray[np.int32]) -> None:
        line = int(lines[names.index(name)])
        if not name or len(name) > MAX_NAME or not name.isprintable() or ">" in name or name != name.strip():
            raise _fault(
                self._path,
                line,
                f"a PoP is named by 1 to {MAX_NAME} printable characters, none of them `>`",
                name,
            )
        if len(self._numbers) >= MAX_POPS:
            raise _fault(self._path, line, f"more than {MAX_POPS} PoPs in all slices", name)

    def _numbers_of(
        self, texts: tuple[str, ...], lines: NDArray[np.int32], column: str
    ) -> NDArray[np.float64]:
        try:
            return np.array(list(map(float, texts)))
        except ValueError:
            values = np.empty(len(texts))
            for i, text in enumerate(texts):
                try:
                    values[i] = float(text) if text.strip() else np.nan
                except ValueError:
                    raise _fault(self._path, int(lines[i]), f"{column} is not a number", text) from None
            return values

    def _skip(self, reason: str, which: NDArray[np.bool_], lines: NDArray[np.int32]) -> None:
        if which.any():
            self._skipped.add(reason, int(which.sum()), f"{self._path}:{lines[int(which.argmax())]}")

    def _possible(
        self,
        start: NDArray[np.int32],
        end: NDArray[np.int32],
        rtt_ms: NDArray[np.float64],
        lines: NDArray[np.int32],
    ) -> NDArray[np.float64]:
        """RTTs below light in fibre become NaN, where both PoPs have a location."""
        if not self._locations:
            return rtt_ms
        where = np.full((len(self._numbers), 2), np.nan)
        for name, number in self._numbers.items():
            where[number] = self._locations.get(name, (np.nan, np.nan))
        too_fast = rtt_ms < light_rtts_ms(where[start], where[end]) - LOCATION_SLACK_MS
        self._skip("rtt_ms is below that of light in fibre", too_fast, lines)
        return np.where(too_fast, np.nan, rtt_ms)

    def _refuse_twice(
        self, start: NDArray[np.int32], end: NDArray[np.int32], lines: NDArray[np.int32]
    ) -> None:
        key = start.astype(np.int64) * MAX_POPS + end
        order = np.argsort(key, kind="stable")
        same = np.flatnonzero(key[order][1:] == key[order][:-1])
        if len(same) == 0:
            return
        again = order[same + 1]
        at = int(again.min())
        first = int(np.flatnonzero(key == key[at])[0])
        names = {number: name for name, number in self._numbers.items()}
        pair = f"{names[int(start[at])]} to {names[int(end[at])]}"
        raise _fault(self._path, int(lines[at]), f"{pair} stands here twice, first in line {lines[first]}")


def light_rtts_ms(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least possible RTT of n pairs of (latitude, longitude) in degrees, [n, 2] each; NaN where one is not known."""
    lat_a, lat_b = np.radians(a[:, 0]), np.radians(b[:, 0])
    half = np.sin((lat_b - lat_a) / 2) ** 2
    half += np.cos(lat_a) * np.cos(lat_b) * np.sin(np.radians(b[:, 1] - a[:, 1]) / 2) ** 2
    rtt_ms: NDArray[np.float64] = (
        4 * EARTH_RADIUS_KM * np.arcsin(np.minimum(1.0, np.sqrt(half))) / LIGHT_IN_FIBRE_KM_PER_MS
    )
    return rtt_ms


def _opened(path: Path) -> TextIO:
    """A file as text; OSError says which."""
    return path.open(newline="", encoding="utf-8-sig")


def _columns(path: Path, header: list[str], needed: tuple[str, ...]) -> dict[str, int]:
    """The place of each needed column. Others are welcome and ignored; one that stands twice is not."""
    missing = [name for name in needed if name not in header]
    if missing:
        raise _fault(
            path,
            1,
            f"the header has no column {', '.join(missing)}; it needs {','.join(needed)}",
            ",".join(header)[:80],
        )
    for name in (*needed, *_OPTIONAL):
        if header.count(name) > 1:
            raise _fault(path, 1, f"the header has the column {name} twice")
    return {name: header.index(name) for name in needed}


def _fault(path: Path, line: int, reason: str, got: str | None = None) -> ConfigError:
    return ConfigError([Fault(str(path), line, 1, "", reason, got=None if got is None else repr(got[:80]))])


def table_of_slice(recorded: Recorded) -> LinkTable:
    """Return the last slice as a table of one link a pair.."""
    *_, last = recorded.slices()
    start, end = np.nonzero(np.isfinite(last.rtt_ms))
    at = (start, end)
    nothing = np.zeros(len(start))
    return pairs_table(
        tuple(PopName(pop) for pop in recorded.pops),
        start.astype(np.int32),
        end.astype(np.int32),
        last.rtt_ms[at],
        nothing if last.jitter_ms is None else np.nan_to_num(last.jitter_ms[at]),
        nothing if last.loss_ratio is None else np.nan_to_num(last.loss_ratio[at]),
    )
