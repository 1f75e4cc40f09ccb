"""What is wrong right now, for people: each problem with its age and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `since_ns` is wall clock."""

    what: str
    fix: str
    since_ns: int


class Problems:
    """Problems by a key that says what they are about; the newest text of a key counts, its age stays."""

    def __init__(self) -> None:
        self._by_key: dict[str, Problem] = {}

    def set(self, key: str, what: str | None, fix: str, now_ns: int) -> None:
        """Note a problem, or with `what` None that it is over."""
        if what is None:
            self._by_key.pop(key, None)
            return
        before = self._by_key.get(key)
        self._by_key[key] = Problem(what, fix, before.since_ns if before else now_ns)

    def clear(self, key: str) -> None:
        """Note that a problem is over."""
        self._by_key.pop(key, None)

    def follow(self, source: str, found: Mapping[str, str], now_ns: int) -> None:
        """Note exactly these problems (what → fix) of a source that knows its own, and that its others are over."""
        for what, fix in found.items():
            self.set(f"{source}:{what}", what, fix, now_ns)
        for key in [key for key, problem in self._by_key.items() if key.startswith(f"{source}:")]:
            if self._by_key[key].what not in found:
                del self._by_key[key]

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def to_json(self, now_ns: int) -> list[dict[str, Any]]:
        """Return the problems as `status` shows them, oldest first."""
        ordered = sorted(self._by_key.values(), key=lambda problem: problem.since_ns)
        return [
            {"what": problem.what, "since_s": max(0.0, (now_ns - problem.since_ns) / 1e9), "fix": problem.fix}
            for problem in ordered
        ]
