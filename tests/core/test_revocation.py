"""The list of what is revoked: what is read, what is refused, and what the engine is told."""

import pytest

from l4proxy.core.revocation import MAX_ENTRIES, MAX_FAULTS, line_for, parse, parse_serial, revokes


def test_names_serials_and_comments_are_read() -> None:
    found, faults = parse("# stolen\npop ams\n\n  serial 0x0A:1b  # of 2026\nserial ff\n", "revoked")
    assert faults == []
    assert (found.pops, found.serials) == ({"ams"}, {0x0A1B, 0xFF})
    assert len(found) == 3
    assert found.to_message() == {"revoked_pops": ["ams"], "revoked_serials": [b"\xff", b"\x0a\x1b"]}


@pytest.mark.parametrize(
    "line",
    ["ams", "pop", "pop AMS", "pop ams iad", "pop a/b", "serial", "serial xyz", "serial 0", f"serial 1{'0' * 40}",
     "serial 1 2", "cn ams"],
)  # fmt: skip
def test_a_line_that_is_none_is_a_fault_with_its_place(line: str) -> None:
    _, (fault,) = parse(f"pop iad\n{line}\n", "/etc/revoked")
    assert str(fault).startswith("/etc/revoked:2:1: ")


def test_faults_and_entries_are_bounded() -> None:
    assert len(parse("x\n" * 1_000, "revoked")[1]) == MAX_FAULTS
    text = "".join(f"serial {number:x}\n" for number in range(1, MAX_ENTRIES + 2))
    (fault,) = parse(text, "revoked")[1]
    assert (fault.line, "beyond" in fault.reason) == (MAX_ENTRIES + 1, True)


def test_what_is_written_is_read_again() -> None:
    for pop, serial in (("ams", None), (None, 0xABC)):
        found, faults = parse(line_for(pop, serial), "revoked")
        assert (faults, len(found)) == ([], 1)
        assert revokes(found, pop or "iad", [serial or 1])
        assert not revokes(found, "sin", [5])


def test_serials_as_other_programs_write_them() -> None:
    assert parse_serial("0A:FF") == parse_serial("aff") == parse_serial("0x0aff") == 0xAFF
