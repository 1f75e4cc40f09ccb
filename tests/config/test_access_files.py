"""Files of access lists: what they say, every fault with its line, and what they may not be."""

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4proxy.config import access_files
from l4proxy.config.access_files import FileIsChangingError, parse, read_list, signature_of
from l4proxy.config.load import check
from l4proxy.core.access_list import AccessList
from l4proxy.errors import ConfigError
from tests.config.support import APP, PATIENT, Files


def faults(data: bytes) -> list[str]:
    """Return what is wrong with a text."""
    with pytest.raises(ConfigError) as caught:
        parse("list", data)
    return [f"{fault}; {fault.hint}" if fault.hint else str(fault) for fault in caught.value.faults]


def test_a_prefix_a_line_with_comments() -> None:
    text = b"# from a tool\n\n192.0.2.0/24  # a network\r\n\t198.51.100.7\n2001:db8::/32\n::1"
    prefixes = ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32", "::1"]
    assert parse("list", text) == AccessList.pack(ip_network(prefix) for prefix in prefixes)
    assert len(parse("list", b"")) == 0


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("10.1.2.3/8", "write 10.0.0.0/8"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("10.0.0.0/0", "write 0.0.0.0/0"),
    ],
)
def test_bits_behind_a_prefix_are_a_slip(line: str, hint: str) -> None:
    assert faults(f"192.0.2.1\n{line}\n".encode()) == [
        f"list:2:1: has bits set to the right of its prefix; {hint}"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "example.net",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/-1",
        "10.0.0.0/ 8",
        "10.0.0.0/0008",
        "10.0.0/8",
        "010.0.0.0/8",
        "2001:db8::/129",
        "fe80::1%eth0",
        "10.0.0.0 10.0.0.1",
        "/8",
        "10.0.0.0/8/8",
        "１０.0.0.0/8",
    ],
)
def test_what_is_no_prefix_is_named_with_its_line(line: str) -> None:
    (fault,) = faults(f"# list\n  {line}\n".encode())
    assert fault.startswith("list:2:3: is not an address or prefix")


def test_many_faults_are_counted_and_some_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("list", b"x\n" * 10_000)
    assert len(caught.value.faults) + caught.value.more == 10_000
    assert len(caught.value.faults) < 1_000


def test_a_line_that_is_no_text_is_shown_without_its_control_characters() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("list", b"\x1b[31m\xff\x00" + b"x" * 1_000 + b"\n")
    (fault,) = caught.value.faults
    assert fault.source_line.isprintable()
    assert len(fault.source_line) <= access_files.MAX_SHOWN


@PATIENT
@given(st.binary(max_size=200) | st.text(alphabet="0123456789abcdef.:/# \n", max_size=200).map(str.encode))
def test_any_text_is_a_list_or_a_fault_and_says_what_ipaddress_says(data: bytes) -> None:
    lines = [line.partition(b"#")[0].strip() for line in data.split(b"\n")]
    wanted = []
    is_right = True
    for line in lines:
        if line:
            try:
                address, slash, length = line.decode("ascii").partition("/")
                if slash and (not length.isdigit() or len(length) > 3 or "%" in address):
                    raise ValueError(line)
                wanted.append(ip_network(line.decode("ascii")))
            except ValueError:
                is_right = False
    found: AccessList | None
    try:
        found = parse("list", data)
    except ConfigError:
        found = None
    assert found == (AccessList.pack(wanted) if is_right else None)


def test_too_many_prefixes_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_files, "MAX_PREFIXES", 3)
    assert len(parse("list", b"10.0.0.1\n" * 3)) == 3
    assert faults(b"10.0.0.1\n" * 4) == ["list:1:1: has 4 prefixes, and 3 are possible"]


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_files, "MAX_BYTES", 1 << 20)
    file = tmp_path / "list"
    with file.open("wb") as stream:
        stream.truncate((1 << 20) + 1)
    with pytest.raises(ConfigError, match="is larger than 1 MiB"):
        read_list(str(file))


def test_a_file_that_is_written_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "list"
    file.write_text("10.0.0.1\n")
    assert read_list(str(file)).signature == signature_of(str(file))
    stat = os.fstat

    def fstat_then_write(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        with file.open("a") as stream:
            stream.write("10.0.0.2\n")
        return found

    monkeypatch.setattr(os, "fstat", fstat_then_write)
    with pytest.raises(FileIsChangingError):
        read_list(str(file))


def test_paths_are_relative_to_the_app_file(files: Files) -> None:
    files.write("192.0.2.0/24\n", "lists/bad.txt")
    app = files.app(
        APP + "access: {deny: ['file:lists/bad.txt', 198.51.100.7, 'file:/etc/l4proxy/more.txt']}\n"
    )
    assert app.access.deny_files == (str(files.folder / "lists/bad.txt"), "/etc/l4proxy/more.txt")
    assert app.access.deny == AccessList.pack([ip_network("198.51.100.7")])
    assert app.access.files == app.access.deny_files


def test_check_reads_the_lists_too(files: Files) -> None:
    bad = files.write("192.0.2.0/24\nnonsense\n", "bad.txt")
    app = files.write(APP + "access: {deny: ['file:bad.txt', 'file:none.txt']}\n", "app.yaml")
    found = [(fault.file, fault.line, fault.reason) for fault in check([app]).faults]
    assert (str(files.folder / "none.txt"), 1, "cannot be read: No such file or directory") in found
    assert (str(bad), 2) in [(file, line) for file, line, _ in found]
    assert len(found) == 2


def test_so_many_files_and_no_more(files: Files) -> None:
    def named(count: int) -> str:
        paths = []
        for number in range(count):
            files.write("", f"{number}.txt")
            paths.append(f"'file:{number}.txt'")
        return APP + f"access: {{allow: [{', '.join(paths)}]}}\n"

    assert files.faults(named(16)) == []
    assert files.faults(named(17)) == ["4: access.allow: has 17 files, and 16 are possible"]
    assert files.faults(APP + "access: {allow: ['file:']}\n") == [
        "4: access.allow[0]: names no file; write file:PATH"
    ]
