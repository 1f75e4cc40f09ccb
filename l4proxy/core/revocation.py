"""The list of what is revoked: PoPs by name, certificates by serial number. Text in, a frozen list out, or every error with its line.

One `pop NAME` or `serial HEX` a line; `#` begins a comment. Where the file lies and when it is read is the daemon's business; who is
refused for it is decided in the engine.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from l4proxy.core.ids import PopName
from l4proxy.errors import Fault

MAX_ENTRIES = 10_000
"""As many PoPs as ten fleets of the largest size have."""

MAX_FILE_BYTES = 1 << 20

MAX_SERIAL_BYTES = 20
"""RFC 5280, section 4.1.2.2: "conforming CAs MUST NOT use serialNumber values longer than 20 octets"."""

MAX_FAULTS = 20
"""Errors of one file that are kept."""

_NAME = re.compile(r"[a-z0-9-]{1,48}")


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What is revoked."""

    pops: frozenset[PopName] = frozenset()
    serials: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.pops) + len(self.serials)

    def to_message(self) -> dict[str, list[str] | list[bytes]]:
        """Return what the engine is told: names, and numbers as big-endian bytes."""
        numbers = [n.to_bytes(max(1, (n.bit_length() + 7) // 8), "big") for n in sorted(self.serials)]
        return {"revoked_pops": sorted(str(name) for name in self.pops), "revoked_serials": numbers}


def parse_serial(text: str) -> int | None:
    """Return the number that hex digits, with or without colons or `0x`, stand for; None: they stand for none."""
    digits = text.replace(":", "").removeprefix("0x").lower()
    if not re.fullmatch(r"[0-9a-f]+", digits):
        return None
    number = int(digits, 16)
    return number if 0 < number < 1 << (8 * MAX_SERIAL_BYTES) else None


def parse(text: str, file: str) -> tuple[RevocationList, list[Fault]]:
    """Return what a list says, and what is wrong in it; a list with faults is not to be used."""
    pops: set[PopName] = set()
    serials: set[int] = set()
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        fault = None
        match words:
            case []:
                continue
            case ["pop", name] if _NAME.fullmatch(name):
                pops.add(PopName(name))
            case ["pop", *_]:
                fault = "pop is followed by one name: 1 to 48 lower-case letters, digits and hyphens"
            case ["serial", digits] if (serial := parse_serial(digits)) is not None:
                serials.add(serial)
            case ["serial", *_]:
                fault = f"serial is followed by one number in hex, of at most {MAX_SERIAL_BYTES} bytes"
            case _:
                fault = "is neither `pop NAME` nor `serial HEX`"
        if fault is None and len(pops) + len(serials) > MAX_ENTRIES:
            fault = f"is beyond {MAX_ENTRIES} entries"
        if fault is not None:
            faults.append(Fault(file, number, 1, "", fault, line, got=line.strip()[:80]))
            if len(faults) >= MAX_FAULTS:
                break
    return RevocationList(frozenset(pops), frozenset(serials)), faults


def line_for(pop: str | None, serial: int | None) -> str:
    """Return the line that revokes a PoP or a certificate."""
    return f"pop {pop}" if pop is not None else f"serial {serial or 0:x}"


def revokes(found: RevocationList, pop: str, serials: Iterable[int]) -> bool:
    """Whether a PoP, or one of these certificates of it, is revoked."""
    return PopName(pop) in found.pops or not found.serials.isdisjoint(serials)
