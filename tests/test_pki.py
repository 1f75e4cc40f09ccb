"""The fleet's CA and identities: what is made, and that nothing doubtful is loaded."""

import json
import os
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from l4proxy import pki
from l4proxy.cli.root import run_command
from l4proxy.errors import IdentityError

NOW = datetime(2026, 5, 4, 12, 30, 15, 999_999, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The folder of a CA of the fleet `demo`."""
    pki.init(tmp_path / "ca", "demo", NOW)
    return tmp_path / "ca"


@pytest.fixture
def ams(tmp_path: Path, ca: Path) -> Path:
    """The folder of the identity of the PoP `ams`."""
    pki.issue(ca, "ams", tmp_path / "ams", NOW)
    return tmp_path / "ams"


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def extension(found: x509.Certificate, kind: type[x509.ExtensionType]) -> tuple[x509.ExtensionType, bool]:
    known = found.extensions.get_extension_for_class(kind)
    return known.value, known.critical


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(call: Callable[[], object]) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        call()
    return caught.value


# ── what is made ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_ca(ca: Path) -> None:
    found = certificate(ca / "ca.pem")
    assert found.version == x509.Version.v3
    assert extension(found, x509.BasicConstraints) == (x509.BasicConstraints(ca=True, path_length=0), True)
    usage, is_critical = extension(found, x509.KeyUsage)
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature, is_critical) == (
        True,
        True,
        False,
        True,
    )
    assert found.not_valid_before_utc == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert found.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=3_650)
    assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(found.signature_hash_algorithm, hashes.SHA256)
    found.verify_directly_issued_by(found)


def test_an_identity(ca: Path, ams: Path) -> None:
    found = certificate(ams / "cert.pem")
    assert found.version == x509.Version.v3
    names, _ = extension(found, x509.SubjectAlternativeName)
    assert list(names) == [x509.UniformResourceIdentifier("l4proxy://demo/ams")]  # type: ignore[call-overload]
    assert extension(found, x509.BasicConstraints) == (
        x509.BasicConstraints(ca=False, path_length=None),
        True,
    )
    usages, _ = extension(found, x509.ExtendedKeyUsage)
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}  # type: ignore[call-overload]
    usage, is_critical = extension(found, x509.KeyUsage)
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign, is_critical) == (True, False, True)
    assert found.not_valid_before_utc == NOW.replace(microsecond=0) - timedelta(minutes=5)
    assert found.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=90)
    found.verify_directly_issued_by(certificate(ca / "ca.pem"))
    key = serialization.load_pem_private_key((ams / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == found.public_key()
    assert (ams / "ca.pem").read_bytes() == (ca / "ca.pem").read_bytes()


def test_two_identities_share_nothing_but_the_ca(ca: Path, ams: Path, tmp_path: Path) -> None:
    again = pki.issue(ca, "ams", tmp_path / "again", NOW)
    first, second = certificate(ams / "cert.pem"), certificate(again)
    assert first.serial_number != second.serial_number
    assert first.public_key() != second.public_key()


def test_an_identity_does_not_outlive_its_ca(ca: Path, tmp_path: Path) -> None:
    late = NOW + timedelta(days=3_600)
    found = certificate(pki.issue(ca, "ams", tmp_path / "late", late))
    assert found.not_valid_after_utc == certificate(ca / "ca.pem").not_valid_after_utc
    error = refused(lambda: pki.issue(ca, "ams", tmp_path / "later", NOW + timedelta(days=3_651)))
    assert (error.file, error.reason[:7]) == (ca / "ca.pem", "expired")
    assert not (tmp_path / "later").exists()


def test_validity_may_be_chosen(ca: Path, tmp_path: Path) -> None:
    found = certificate(pki.issue(ca, "ams", tmp_path / "short", NOW, DAY))
    assert found.not_valid_after_utc == NOW.replace(microsecond=0) + DAY


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777 & ~0o700])
def test_files_are_for_their_owner_only(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        pki.init(tmp_path / "deep" / "ca", "demo", NOW)
        pki.issue(tmp_path / "deep" / "ca", "ams", tmp_path / "ams", NOW)
    finally:
        os.umask(before)
    for folder in (tmp_path / "deep" / "ca", tmp_path / "ams"):
        assert mode(folder) == 0o700
        assert {mode(file) for file in folder.iterdir()} == {0o600}
    assert {file.name for file in (tmp_path / "ams").iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
    assert {file.name for file in (tmp_path / "deep" / "ca").iterdir()} == {"ca.pem", "ca-key.pem"}


@pytest.mark.parametrize("there", ["ca.pem", "ca-key.pem"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    error = refused(lambda: pki.init(tmp_path, "demo", NOW))
    assert (error.file, error.reason) == (tmp_path / there, "is there already")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(there, "precious")]


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ca-key.pem").symlink_to(tmp_path / "elsewhere")
    assert refused(lambda: pki.init(tmp_path, "demo", NOW)).reason == "is there already"
    assert not (tmp_path / "elsewhere").exists()


def test_an_identity_is_not_issued_twice_into_one_folder(ca: Path, ams: Path) -> None:
    before = {file.name: file.read_bytes() for file in ams.iterdir()}
    assert refused(lambda: pki.issue(ca, "ams", ams, NOW)).reason == "is there already"
    assert {file.name: file.read_bytes() for file in ams.iterdir()} == before


def test_all_files_are_written_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the second file leaves neither a key without its certificate nor scraps."""
    link = os.link

    def fails_at_the_second(source: Path, target: Path) -> None:
        if target.name == "ca.pem":
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr("os.link", fails_at_the_second)
    error = refused(lambda: pki.init(tmp_path / "ca", "demo", NOW))
    assert error.reason == "cannot be written: No space left on device"
    assert list((tmp_path / "ca").iterdir()) == []


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    error = refused(lambda: pki.init(tmp_path, "demo", NOW))
    assert (error.reason, error.fix) == ("others can write here (mode 0770)", f"run: chmod 700 {tmp_path}")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(lambda: pki.init(tmp_path / "file", "demo", NOW)).reason


# ── issuing from what is no CA ───────────────────────────────────────────────────────────────────────────────────


def test_only_a_ca_issues(ams: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    error = refused(lambda: pki.issue(tmp_path / "none", "ams", out, NOW))
    assert error.file == tmp_path / "none" / "ca.pem"
    assert error.fix == "make a CA: l4proxy pki init"
    assert refused(lambda: pki.issue(ams, "iad", out, NOW)).file == ams / "ca-key.pem"
    (ams / "ca.pem").write_bytes((ams / "cert.pem").read_bytes())
    (ams / "ca-key.pem").write_bytes((ams / "key.pem").read_bytes())
    (ams / "ca-key.pem").chmod(0o600)
    assert refused(lambda: pki.issue(ams, "iad", out, NOW)).reason == "is not the CA of a fleet"
    assert not out.exists()


def test_a_ca_with_the_key_of_another_issues_nothing(ca: Path, tmp_path: Path) -> None:
    pki.init(tmp_path / "other", "demo", NOW)
    (ca / "ca-key.pem").write_bytes((tmp_path / "other" / "ca-key.pem").read_bytes())
    error = refused(lambda: pki.issue(ca, "ams", tmp_path / "out", NOW))
    assert (error.file, error.reason) == (ca / "ca-key.pem", "is not the key of ca.pem")


def test_a_ca_key_that_others_can_read_issues_nothing(ca: Path, tmp_path: Path) -> None:
    (ca / "ca-key.pem").chmod(0o640)
    assert "others can read this key" in refused(lambda: pki.issue(ca, "ams", tmp_path / "out", NOW)).reason


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_identity_is_loaded(ams: Path) -> None:
    found = pki.load_identity(ams, NOW)
    assert (found.fleet, found.pop) == ("demo", "ams")
    assert found.not_after == NOW.replace(microsecond=0) + timedelta(days=90)
    assert (found.ca_pem, found.cert_pem, found.key_pem) == tuple(
        (ams / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem")
    )
    assert pki.load_identity(ams, NOW, fleet="demo", pop="ams") == found


def test_the_key_is_never_printed(ams: Path) -> None:
    text = repr(pki.load_identity(ams, NOW))
    assert "key" not in text
    assert "PRIVATE" not in text


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_a_missing_file_is_named(ams: Path, name: str) -> None:
    (ams / name).unlink()
    error = refused(lambda: pki.load_identity(ams, NOW))
    assert (error.file, error.reason) == (ams / name, "cannot be read: No such file or directory")
    assert "l4proxy pki issue" in error.fix


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff" * 300_000],
    ids=["empty", "text", "broken", "huge"],
)
def test_a_broken_file_is_named(ams: Path, name: str, content: bytes) -> None:
    """An empty CA must never mean that anybody is trusted."""
    (ams / name).write_bytes(content)
    assert refused(lambda: pki.load_identity(ams, NOW)).file == ams / name


@pytest.mark.parametrize("bad", [0o640, 0o604, 0o660, 0o644, 0o777, 0o610, 0o601])
def test_a_key_that_others_can_use_is_refused_with_the_command_that_helps(ams: Path, bad: int) -> None:
    (ams / "key.pem").chmod(bad)
    error = refused(lambda: pki.load_identity(ams, NOW))
    assert error.reason == f"others can read this key (mode {bad:04o})"
    assert error.fix == f"run: chmod 600 {ams / 'key.pem'}"
    (ams / "key.pem").chmod(0o600)
    assert pki.load_identity(ams, NOW).pop == "ams"


@pytest.mark.parametrize("good", [0o600, 0o400, 0o700])
def test_a_key_that_is_the_owners_is_loaded(ams: Path, good: int) -> None:
    (ams / "key.pem").chmod(good)
    assert pki.load_identity(ams, NOW).pop == "ams"


def test_the_key_of_another_is_refused(ca: Path, ams: Path, tmp_path: Path) -> None:
    pki.issue(ca, "iad", tmp_path / "iad", NOW)
    (ams / "key.pem").write_bytes((tmp_path / "iad" / "key.pem").read_bytes())
    error = refused(lambda: pki.load_identity(ams, NOW))
    assert (error.file, error.reason) == (ams / "key.pem", "is not the key of cert.pem")


@pytest.mark.parametrize("kind", ["rsa", "p384", "encrypted"])
def test_keys_of_other_kinds_are_refused(ams: Path, kind: str) -> None:
    key = {
        "rsa": lambda: rsa.generate_private_key(65_537, 2_048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "encrypted": lambda: ec.generate_private_key(ec.SECP256R1()),
    }[kind]()
    lock = (
        serialization.BestAvailableEncryption(b"x") if kind == "encrypted" else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    (ams / "key.pem").write_bytes(pem)
    error = refused(lambda: pki.load_identity(ams, NOW))
    assert error.reason == (
        "is not an unencrypted private key" if kind == "encrypted" else "is not a P-256 key"
    )


def test_a_certificate_of_another_ca_is_refused(ams: Path, tmp_path: Path) -> None:
    """Also when the other CA has the same name: only the signature tells."""
    pki.init(tmp_path / "other", "demo", NOW)
    (ams / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    error = refused(lambda: pki.load_identity(ams, NOW))
    assert (error.file, error.reason) == (ams / "cert.pem", "is not issued by ca.pem")


def test_while_a_ca_is_replaced_both_are_trusted(ca: Path, ams: Path, tmp_path: Path) -> None:
    pki.init(tmp_path / "new", "demo", NOW)
    new = (tmp_path / "new" / "ca.pem").read_bytes()
    (ams / "ca.pem").write_bytes(new + (ca / "ca.pem").read_bytes())
    assert pki.load_identity(ams, NOW).pop == "ams"


def test_a_certificate_that_is_no_ca_issues_nobody(ams: Path) -> None:
    (ams / "ca.pem").write_bytes((ams / "cert.pem").read_bytes())
    assert refused(lambda: pki.load_identity(ams, NOW)).reason == "is not issued by ca.pem"


def test_validity_is_judged_by_the_time_that_is_given(ams: Path) -> None:
    begins = NOW.replace(microsecond=0) - timedelta(minutes=5)
    ends = NOW.replace(microsecond=0) + timedelta(days=90)
    assert pki.load_identity(ams, begins).pop == "ams"
    assert pki.load_identity(ams, ends).pop == "ams"
    early, late = (refused(lambda t=t: pki.load_identity(ams, t)) for t in (begins - SECOND, ends + SECOND))
    assert (early.file, early.fix) == (ams / "cert.pem", "set this machine's clock")
    assert (late.file, late.reason) == (
        ams / "cert.pem",
        f"expired at {ends}, 1 s ago by this machine's clock",
    )
    assert "l4proxy pki issue" in late.fix


def test_an_expired_ca_is_named(tmp_path: Path) -> None:
    """A certificate of ours never outlives its CA; one that was made elsewhere may."""
    make_identity(tmp_path, names=["l4proxy://demo/ams"], validity=timedelta(days=5_000))
    error = refused(lambda: pki.load_identity(tmp_path / "made", NOW + timedelta(days=4_000)))
    assert error.file == tmp_path / "made" / "ca.pem"


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        ({"fleet": "other"}, "is of the fleet demo, not other"),
        ({"pop": "iad"}, "is the identity of ams, not iad"),
        ({"fleet": "demo", "pop": "AMS"}, "is the identity of ams, not AMS"),
    ],
)
def test_an_identity_of_somebody_else_is_refused(ams: Path, expected: dict[str, str], reason: str) -> None:
    error = refused(lambda: pki.load_identity(ams, NOW, **expected))
    assert (error.file, error.reason) == (ams / "cert.pem", reason)


def make_identity(
    folder: Path,
    names: list[str],
    usages: list[x509.ObjectIdentifier] | None = None,
    validity: timedelta = DAY,
) -> Path:
    """Make a certificate as somebody with the CA's key and other tools might."""
    pki.init(folder / "ca", "demo", NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    ca_key = serialization.load_pem_private_key((folder / "ca" / "ca-key.pem").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(certificate(folder / "ca" / "ca.pem").subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW.replace(microsecond=0) - DAY)
        .not_valid_after(NOW.replace(microsecond=0) + validity)
    )
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    made = folder / "made"
    made.mkdir()
    (made / "cert.pem").write_bytes(
        builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    (made / "ca.pem").write_bytes((folder / "ca" / "ca.pem").read_bytes())
    pkcs8 = serialization.PrivateFormat.PKCS8
    (made / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    )
    (made / "key.pem").chmod(0o600)
    return made


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["l4proxy://demo"],
        ["l4proxy://demo/"],
        ["l4proxy:///ams"],
        ["l4proxy://demo/ams/x"],
        ["https://demo/ams"],
        ["L4PROXY://demo/ams"],
        ["l4proxy://demo/ams", "l4proxy://demo/iad"],
        ["l4proxy://demo/ams", "https://example.net"],
    ],
)
def test_a_certificate_names_exactly_one_pop(tmp_path: Path, names: list[str]) -> None:
    error = refused(lambda: pki.load_identity(make_identity(tmp_path, names), NOW))
    assert error.file == tmp_path / "made" / "cert.pem"
    assert error.reason.startswith("does not name one PoP as l4proxy://FLEET/POP")


@pytest.mark.parametrize(
    ("usages", "is_good"),
    [
        (None, True),
        ([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], True),
        ([ExtendedKeyUsageOID.SERVER_AUTH], False),
        ([ExtendedKeyUsageOID.CLIENT_AUTH], False),
    ],
)
def test_a_pop_is_client_and_server(
    tmp_path: Path, usages: list[x509.ObjectIdentifier] | None, is_good: bool
) -> None:
    folder = make_identity(tmp_path, ["l4proxy://demo/ams"], usages)
    if is_good:
        assert pki.load_identity(folder, NOW).pop == "ams"
    else:
        assert (
            refused(lambda: pki.load_identity(folder, NOW)).reason == "is not for TLS client and server both"
        )


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────

CaptureFixture = pytest.CaptureFixture[str]


def test_the_commands_make_what_a_pop_needs(tmp_path: Path, capsys: CaptureFixture) -> None:
    ca, out = str(tmp_path / "ca"), str(tmp_path / "new" / "ams")
    assert run_command(["pki", "init", "--dir", ca, "--fleet", "demo"]) == 0
    assert run_command(["pki", "issue", "ams", "--dir", ca, "--out", out]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"l4proxy pki issue POP --dir {ca}" in captured.err
    assert f"l4proxy run --pop ams --identity {out}" in captured.err
    found = pki.load_identity(Path(out), datetime.now(UTC), "demo", "ams")
    assert timedelta(days=89) < found.not_after - datetime.now(UTC) <= timedelta(days=90)


def test_the_fleet_has_a_name_when_none_is_given(tmp_path: Path) -> None:
    assert run_command(["pki", "init", "--dir", str(tmp_path / "ca")]) == 0
    (fact,) = pki.facts(tmp_path / "ca")
    assert (fact.kind, fact.fleet, fact.pop) == ("ca", "default", None)


def test_days_may_be_chosen(tmp_path: Path) -> None:
    pki.init(tmp_path / "fresh", "demo", datetime.now(UTC))
    arguments = ["pki", "issue", "ams", "--dir", str(tmp_path / "fresh"), "--out", str(tmp_path / "out")]
    assert run_command([*arguments, "--days", "7"]) == 0
    found = pki.load_identity(tmp_path / "out", datetime.now(UTC))
    assert timedelta(days=6) < found.not_after - datetime.now(UTC) <= timedelta(days=7)


@pytest.mark.parametrize(
    "arguments",
    [
        ["init"],
        ["init", "--dir", "x", "--fleet", "Demo"],
        ["init", "--dir", "x", "--fleet", ""],
        ["issue", "ams", "--dir", "x"],
        ["issue", "a/b", "--dir", "x", "--out", "y"],
        ["issue", "../etc", "--dir", "x", "--out", "y"],
        ["issue", "ams", "--dir", "x", "--out", "y", "--days", "0"],
        ["show"],
        ["revoke"],
    ],
)
def test_wrong_use(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["pki", *arguments]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_one_line_on_stderr(ca: Path, capsys: CaptureFixture) -> None:
    assert run_command(["pki", "init", "--dir", str(ca)]) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    line = f"l4proxy: {ca / 'ca-key.pem'}: is there already; choose another folder, or move it away\n"
    assert captured.err == line


def test_show_for_people(ams: Path, capsys: CaptureFixture) -> None:
    assert run_command(["pki", "show", str(ams)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "kind", "fleet", "pop", "state", "until", "sha256"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["ca.pem", "ca", "demo", "–"],
        ["cert.pem", "pop", "demo", "ams"],
    ]
    assert "PRIVATE" not in "".join(lines)


def test_show_for_programs(ams: Path, capsys: CaptureFixture) -> None:
    assert run_command(["pki", "show", "--json", str(ams / "cert.pem")]) == 0
    (found,) = json.loads(capsys.readouterr().out)["certificates"]
    assert found["file"] == str(ams / "cert.pem")
    assert (found["kind"], found["fleet"], found["pop"]) == ("pop", "demo", "ams")
    assert found["not_after"] == "2026-08-02T12:30:15+00:00"
    assert found["state"] in ("valid", "expired", "not yet valid")
    assert re.fullmatch("[0-9a-f]{64}", found["sha256"])
    assert int(found["serial"], 16) == certificate(ams / "cert.pem").serial_number


def test_show_of_what_is_none(tmp_path: Path, ams: Path) -> None:
    assert refused(lambda: pki.facts(tmp_path / "none.pem")).reason.startswith("cannot be read")
    assert refused(lambda: pki.facts(ams / "key.pem")).reason == "is not a PEM certificate"
    (tmp_path / "empty").mkdir()
    assert refused(lambda: pki.facts(tmp_path / "empty")).reason == "has no certificate"


def test_the_state_of_a_certificate(ams: Path) -> None:
    (fact,) = pki.facts(ams / "cert.pem")
    assert fact.state(NOW) == "valid"
    assert fact.state(NOW + timedelta(days=91)) == "expired"
    assert fact.state(NOW - DAY) == "not yet valid"


def test_a_certificate_of_others_is_shown_as_such(tmp_path: Path) -> None:
    (fact,) = pki.facts(make_identity(tmp_path, ["https://example.net"]) / "cert.pem")
    assert (fact.kind, fact.fleet, fact.pop) == ("other", None, None)
