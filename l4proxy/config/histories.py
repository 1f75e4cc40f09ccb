"""Recorded link histories (folders or files of `core.link_history`) → slices for replay, or the newest moment for what-if.

Of the links that join a pair a slice has the fastest that was up, since a slice is one value a pair. A pair none of whose links was up did
not answer; one that was never measured is a hole. What is torn at the end of a file is passed over and said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from l4proxy.config.slices import Skipped
from l4proxy.core.link_history import MAGIC, Header, HistoryError, Moment, Segment, read
from l4proxy.core.replay_policies import Slice
from l4proxy.core.routing.links import LinkTable
from l4proxy.errors import ConfigError, Fault


def is_history(path: Path) -> bool:
    """Whether a path is a folder, or a file that begins as a segment does."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@dataclass(slots=True)
class History:
    """Segments in time order, and what could not be read of them."""

    segments: list[Segment]
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def newest(self) -> tuple[Header, Moment]:
        """The last moment of all."""
        segment = self.segments[-1]
        *_, last = segment.moments()
        return segment.header, last

    @property
    def locations(self) -> dict[str, tuple[float, float]]:
        """Where PoPs are, as the newest header that has them says."""
        found: dict[str, tuple[float, float]] = {}
        for segment in self.segments:
            found |= {name: at for name, at in segment.header.locations.items() if at is not None}
        return found

    def moments(self, interval_s: float, since_s: float | None = None) -> Iterator[tuple[Header, Moment]]:
        """Return the first moment at or after every multiple of `interval_s` of the wall clock, from `since_s` before the last one on."""
        first = -np.inf if since_s is None else self.segments[-1].times_s[-1] - since_s
        slot = -1
        for segment in self.segments:
            for moment in segment.moments():
                if moment.at_s >= first and moment.at_s // interval_s > slot:
                    slot = int(moment.at_s // interval_s)
                    yield segment.header, moment


def read_history(paths: Sequence[Path]) -> History:
    """Read segments and folders of them. ConfigError: there is none, or a file is no segment."""
    named = [(path, path) for path in paths if not path.is_dir()]
    found = [(path, file) for path in paths if path.is_dir() for file in sorted(path.glob("*.links"))]
    history = History([])
    for path, file in named + found:
        try:
            segment = read(file.read_bytes())
        except OSError as error:
            raise _fault(
                file, f"cannot be read: {error.strerror or error}", "check path and rights"
            ) from error
        except HistoryError as error:
            if path.is_dir():
                # A crash may leave a file that did not get as far as its header; the others are good.
                history.skipped.add(f"a file of the folder is no history: {error}", 1, str(file))
                continue
            raise _fault(file, str(error), "name files that `l4proxy run` recorded") from error
        if segment.torn:
            history.skipped.add(f"{segment.torn} bytes at the end are torn", 1, str(file))
        if segment.times_s:
            history.segments.append(segment)
    if not history.segments:
        where = ", ".join(map(str, paths))
        raise _fault(Path(where), "no moment is recorded there", "the daemon records one a minute")
    history.segments.sort(key=lambda segment: segment.times_s[0])
    return history


@dataclass(slots=True)
class HistorySlices:
    """A history as what `read_slices` returns: PoPs in the order of their names, slices one by one."""

    pops: tuple[str, ...]
    skipped: Skipped
    answered: int
    labels: tuple[str, ...]
    """When each slice was, UTC."""
    _history: History
    _interval_s: float
    _since_s: float | None

    @classmethod
    def of(cls, history: History, interval_s: float, since_s: float | None = None) -> "HistorySlices":
        """Take a slice each interval."""
        pops = tuple(sorted({pop for segment in history.segments for pop in segment.header.pops}))
        labels, answered = [], 0
        for _, moment in history.moments(interval_s, since_s):
            labels.append(f"{datetime.fromtimestamp(moment.at_s, UTC):%Y-%m-%dT%H:%M:%SZ}")
            answered += int(np.isfinite(moment.rtt_ms).sum())
        return cls(pops, history.skipped, answered, tuple(labels), history, interval_s, since_s)

    def __len__(self) -> int:
        return len(self.labels)

    def slices(self) -> Iterator[Slice]:
        """Return the slices in order."""
        for header, moment in self._history.moments(self._interval_s, self._since_s):
            yield slice_of(self.pops, header, moment)


def slice_of(pops: tuple[str, ...], header: Header, moment: Moment) -> Slice:
    """Return a moment as matrices over `pops`."""
    n = len(pops)
    place = np.array([pops.index(pop) for pop in header.pops], np.int64)
    at = place[np.array(header.start, np.int64)] * n + place[np.array(header.end, np.int64)]
    # The last one written counts: the fastest that is up, then those that are down, then those that nobody measured.
    rank = np.where(np.isnan(moment.rtt_ms), np.inf, np.where(np.isinf(moment.rtt_ms), 1e300, moment.rtt_ms))
    order = np.argsort(-rank, kind="stable")
    matrices = []
    for values in (moment.rtt_ms, moment.jitter_ms, moment.loss_ratio):
        matrix = np.full(n * n, np.nan)
        matrix[at[order]] = values[order]
        matrices.append(matrix.reshape(n, n))
    rtt_ms, jitter_ms, loss_ratio = matrices
    return Slice(rtt_ms, jitter_ms, loss_ratio)


def _fault(file: Path, message: str, hint: str) -> ConfigError:
    return ConfigError([Fault(str(file), 1, 1, "", message, hint=hint)])


def table_of(header: Header, moment: Moment) -> LinkTable:
    """Return a moment as a table of links; all may be any link of a path."""
    usable = np.isfinite(moment.rtt_ms)
    return LinkTable(
        pops=header.pops,
        names=header.links,
        start=np.array(header.start, np.int32),
        end=np.array(header.end, np.int32),
        usable=usable,
        labelled=np.ones(len(header.links), np.bool_),
        rtt_ms=np.where(usable, moment.rtt_ms, np.nan),
        rtt_ms_now=np.where(usable, moment.rtt_ms, np.nan),
        jitter_ms=moment.jitter_ms,
        loss_ratio=moment.loss_ratio,
    )
