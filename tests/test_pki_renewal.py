"""Requests and what is signed for them, how a pair of files is replaced, trust of two CAs, and lists of what is revoked."""

import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from l4proxy import pki, pki_renewal
from l4proxy.cli.root import run_command
from l4proxy.core.renewal import MAX_REQUEST_BYTES
from l4proxy.core.revocation import RevocationList
from l4proxy.errors import ConfigError, IdentityError

NOW = datetime(2026, 5, 4, 12, 30, 15, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The folder of the CA of the fleet `demo`."""
    pki.init(tmp_path / "ca", "demo", NOW)
    return tmp_path / "ca"


@pytest.fixture
def ams(tmp_path: Path, ca: Path) -> Path:
    """The folder of the identity of ams."""
    pki.issue(ca, "ams", tmp_path / "ams", NOW)
    return tmp_path / "ams"


def sign(ca: Path, request: bytes, pop: str = "ams", now: datetime = NOW) -> bytes:
    return pki_renewal.sign_request(ca, "demo", pop, request, now, 90 * DAY)


def renewed(ca: Path, ams: Path, now: datetime = NOW + 60 * DAY) -> pki.Identity:
    """Return the identity that a whole renewal makes; nothing is written."""
    request = pki_renewal.make_request("demo", "ams")
    current = pki.load_identity(ams, now)
    return pki_renewal.judge_answer(ams, current, sign(ca, request.der, now=now), request.key_pem, now)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(pki_renewal.RequestError) as caught:
        call()
    return caught.value.refusal


def wrong(call: Callable[[], object]) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        call()
    return caught.value


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_signed_is_an_identity_with_a_new_key(ca: Path, ams: Path) -> None:
    new, old = renewed(ca, ams), pki.load_identity(ams, NOW)
    assert (new.fleet, new.pop) == ("demo", "ams")
    assert new.not_after == NOW + 150 * DAY
    assert new.key_pem != old.key_pem
    assert new.serial != old.serial


def test_a_request_holds_no_private_key(ca: Path) -> None:
    request = pki_renewal.make_request("demo", "ams")
    key = serialization.load_pem_private_key(request.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    assert secret not in request.der
    assert secret not in sign(ca, request.der)
    assert "PRIVATE" not in repr(request)


def test_the_name_is_that_of_the_connection_never_that_of_the_request(ca: Path) -> None:
    request = pki_renewal.make_request("demo", "iad")
    assert refusal(lambda: sign(ca, request.der, "ams")) == "other_name"
    assert refusal(lambda: sign(ca, pki_renewal.make_request("other", "ams").der)) == "other_name"


def made(names: list[x509.GeneralName], key: object = None) -> bytes:
    """Return a request for these names."""
    private = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "iad")])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    ca = x509.BasicConstraints(ca=True, path_length=None)
    request = builder.add_extension(ca, critical=True).sign(private, hashes.SHA256())  # type: ignore[arg-type]
    return request.public_bytes(serialization.Encoding.DER)


def test_a_second_name_is_refused_and_no_extension_of_a_request_gets_into_the_certificate(ca: Path) -> None:
    own = x509.UniformResourceIdentifier("l4proxy://demo/ams")
    for names in (
        [own, x509.UniformResourceIdentifier("l4proxy://demo/iad")],
        [own, x509.DNSName("iad.example")],
        [x509.DNSName("l4proxy://demo/ams")],
    ):
        assert refusal(lambda names=names: sign(ca, made(names))) == "other_name"
    assert refusal(lambda: sign(ca, made([]))) == "malformed"
    certificate = x509.load_der_x509_certificate(sign(ca, made([own])))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.subject.rfc4514_string() == "CN=ams"


def test_a_request_that_proves_no_key_is_refused(ca: Path) -> None:
    request = bytearray(pki_renewal.make_request("demo", "ams").der)
    request[-1] ^= 1
    assert refusal(lambda: sign(ca, bytes(request))) in ("unproved", "malformed")
    # The key of another in a request that is otherwise whole.
    one, other = (pki_renewal.make_request("demo", "ams").der for _ in range(2))
    keys = [
        x509.load_der_x509_csr(der).public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for der in (one, other)
    ]  # fmt: skip
    assert refusal(lambda: sign(ca, one.replace(keys[0], keys[1]))) == "unproved"


@pytest.mark.parametrize("request_bytes", [b"", b"x", bytes(300), b"\x30\x82\xff\xff" + bytes(50)])
def test_garbage_is_no_request(ca: Path, request_bytes: bytes) -> None:
    assert refusal(lambda: sign(ca, request_bytes)) == "malformed"


def test_a_request_with_any_byte_changed_or_cut_off_is_refused_or_asks_for_the_same(ca: Path) -> None:
    whole = pki_renewal.make_request("demo", "ams").der
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        for request in (bytes(changed), whole[:place]):
            try:
                certificate = x509.load_der_x509_certificate(sign(ca, request))
            except pki_renewal.RequestError:
                continue
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert list(names) == [x509.UniformResourceIdentifier("l4proxy://demo/ams")]


def test_keys_of_other_kinds_and_long_requests_are_refused(ca: Path) -> None:
    own = [x509.UniformResourceIdentifier("l4proxy://demo/ams")]
    assert refusal(lambda: sign(ca, made(own, rsa.generate_private_key(65537, 2048)))) == "wrong_key"
    assert refusal(lambda: sign(ca, made(own, ec.generate_private_key(ec.SECP384R1())))) == "wrong_key"
    many: list[x509.GeneralName] = [x509.DNSName("x" * 60) for _ in range(MAX_REQUEST_BYTES // 60)]
    assert refusal(lambda: sign(ca, made(many))) == "malformed"


def test_a_ca_that_cannot_sign_is_the_issuers_fault(ca: Path) -> None:
    request = pki_renewal.make_request("demo", "ams").der
    other_fleet = wrong(
        lambda: pki_renewal.sign_request(
            ca, "other", "ams", pki_renewal.make_request("other", "ams").der, NOW, DAY
        )
    )
    assert "is the CA of the fleet demo" in other_fleet.reason
    (ca / "ca-key.pem").chmod(0o640)
    assert "others can read this key" in wrong(lambda: sign(ca, request)).reason
    (ca / "ca-key.pem").unlink()
    assert wrong(lambda: sign(ca, request)).file == ca / "ca-key.pem"


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_for_another_name_key_or_ca_is_not_taken(ca: Path, ams: Path, tmp_path: Path) -> None:
    now = NOW + 60 * DAY
    request, current = pki_renewal.make_request("demo", "ams"), pki.load_identity(ams, now)

    def judge(certificate: bytes) -> IdentityError:
        return wrong(lambda: pki_renewal.judge_answer(ams, current, certificate, request.key_pem, now))

    key = serialization.load_pem_private_key(request.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = pki.load_authority(ca, now)
    der = serialization.Encoding.DER
    for_iad = authority.sign(key.public_key(), "iad", now, 90 * DAY).public_bytes(der)
    assert "is the identity of iad, not ams" in judge(for_iad).reason
    other_key = sign(ca, pki_renewal.make_request("demo", "ams").der, now=now)
    assert "is not the key of" in judge(other_key).reason
    pki.init(tmp_path / "stranger", "demo", NOW)
    assert "is not issued by" in judge(sign(tmp_path / "stranger", request.der, now=now)).reason
    assert "is no certificate" in judge(b"garbage").reason
    shorter = pki_renewal.sign_request(ca, "demo", "ams", request.der, now, DAY)
    assert "no later than the one in use" in judge(shorter).reason
    to_come = sign(ca, request.der, now=now + DAY)
    assert judge(to_come).fix == "set this machine's clock"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_renewed_identity_takes_the_place_of_the_one_before(ca: Path, ams: Path) -> None:
    new = renewed(ca, ams)
    pki_renewal.install(ams, new)
    assert pki.load_identity(ams, NOW + 60 * DAY) == new
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in ams.iterdir()} == {
        "ca.pem": 0o600, "cert.pem": 0o600, "key.pem": 0o600,
    }  # fmt: skip


@pytest.mark.parametrize("survives", range(12))
def test_a_crash_at_any_moment_leaves_one_whole_pair(
    ca: Path, ams: Path, survives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change to the folder is a step; after each of them a daemon that starts finds the old or the new identity, never half."""
    now = NOW + 60 * DAY
    old, new = pki.load_identity(ams, now), renewed(ca, ams)
    steps = iter(range(1_000))

    class Crash(BaseException):
        pass

    def counted(act: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **words: object) -> object:
            if next(steps) >= survives:
                raise Crash
            return act(*arguments, **words)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(pki, "write_new", counted(pki.write_new))
        try:
            pki_renewal.install(ams, new)
            is_over = True
        except Crash:
            is_over = False
    found = pki.load_identity(ams, now)
    assert found in (old, new)
    assert found == new or not is_over
    pki_renewal.finish(ams)
    assert pki.load_identity(ams, now) == found
    assert sorted(file.name for file in ams.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_a_folder_that_cannot_be_written_says_so_and_keeps_what_it_has(
    ca: Path, ams: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = renewed(ca, ams), pki.load_identity(ams, NOW)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pki, "write_new", full)
    error = wrong(lambda: pki_renewal.install(ams, new))
    assert (error.file, error.reason) == (ams, "cannot be written: No space left on device")
    assert pki.load_identity(ams, NOW) == old


def test_the_pair_in_one_file_must_be_the_owners_too(ca: Path, ams: Path) -> None:
    new = renewed(ca, ams)
    (ams / "renewed.pem").write_bytes(new.key_pem + new.cert_pem)
    (ams / "renewed.pem").chmod(0o644)
    assert "others can read this key" in wrong(lambda: pki.load_identity(ams, NOW + 60 * DAY)).reason


# ── two CAs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_documented_way_from_one_ca_to_the_next(ca: Path, ams: Path, tmp_path: Path) -> None:
    """Each step by its command; after each of them ams and iad, who are one step apart, accept each other."""
    new_ca, iad = tmp_path / "ca2", tmp_path / "iad"
    pki.issue(ca, "iad", iad, datetime.now(UTC))
    pki.init(tmp_path / "today", "demo", datetime.now(UTC))
    assert (
        run_command(["pki", "init", "--dir", str(new_ca), "--fleet", "demo", "--trust", str(ca / "ca.pem")])
        == 0
    )
    for folder in (ams, iad):
        assert run_command(["pki", "trust", str(new_ca / "ca.pem"), "--dir", str(folder)]) == 0
        assert (folder / "ca.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert run_command(["pki", "issue", "iad", "--dir", str(new_ca), "--out", str(tmp_path / "iad2")]) == 0
    now = datetime.now(UTC)
    moved = pki.load_identity(tmp_path / "iad2", now)
    assert moved.ca_pem.count(b"BEGIN CERTIFICATE") == 2
    # ams still has an identity of the old CA, and cannot drop what vouches for it.
    only_new = tmp_path / "only-new.pem"
    only_new.write_bytes(pki.pem(pki.certificates_in((new_ca / "ca.pem").read_bytes(), new_ca / "ca.pem")[0]))
    assert "did not issue this PoP's own" in wrong(lambda: pki_renewal.trust(ams, only_new, only=True)).reason
    assert run_command(["pki", "trust", str(only_new), "--only", "--dir", str(tmp_path / "iad2")]) == 0
    assert (tmp_path / "iad2" / "ca.pem").read_bytes() == only_new.read_bytes()
    assert pki.load_identity(tmp_path / "iad2", now).pop == "iad"


def test_a_ca_is_trusted_once_however_often_it_is_added(ca: Path, ams: Path) -> None:
    assert pki_renewal.trust(ams, ca / "ca.pem", only=False) == 1


def test_the_ca_of_another_fleet_is_not_trusted(ams: Path, tmp_path: Path) -> None:
    pki.init(tmp_path / "other", "other", NOW)
    error = wrong(lambda: pki_renewal.trust(ams, tmp_path / "other" / "ca.pem", only=False))
    assert "is the CA of the fleet other, not demo" in error.reason
    assert (
        "is the CA of the fleet other"
        in wrong(lambda: pki.init(tmp_path / "next", "demo", NOW, tmp_path / "other" / "ca.pem")).reason
    )


# ── revocation ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_writes_what_the_daemon_reads(ams: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["iad"], ["--serial", "0A:1b"], ["iad"]):
        assert run_command(["pki", "revoke", *arguments, "--dir", str(ams)]) == 0
    assert capsys.readouterr().err.count("already") == 1
    assert (ams / "revoked").read_text() == "# One `pop NAME` or `serial HEX` a line.\npop iad\nserial a1b\n"
    found = pki_renewal.load_revoked(ams / "revoked", must_exist=True)
    assert (found.pops, found.serials) == ({"iad"}, {0xA1B})


@pytest.mark.parametrize("arguments", [[], ["iad", "--serial", "1"], ["--serial", "xyz"], ["IAD"]])
def test_a_revocation_of_nothing_is_wrong_use(ams: Path, arguments: list[str]) -> None:
    assert run_command(["pki", "revoke", *arguments, "--dir", str(ams)]) == 2
    assert not (ams / "revoked").exists()


def test_a_list_that_is_not_there_is_empty_unless_it_must_be(tmp_path: Path) -> None:
    assert pki_renewal.load_revoked(tmp_path / "revoked", must_exist=False) == RevocationList()
    with pytest.raises(ConfigError, match="is not there"):
        pki_renewal.load_revoked(tmp_path / "revoked", must_exist=True)


@pytest.mark.parametrize("content", [b"pop AMS\n", b"\xff\xfe", b"serial 1\n" * 200_000])
def test_a_list_that_cannot_be_read_is_no_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "revoked").write_bytes(content)
    with pytest.raises(ConfigError, match=r"revoked:1:1: "):
        pki_renewal.load_revoked(tmp_path / "revoked", must_exist=False)
    if len(content) < 100:
        with pytest.raises(ConfigError):
            pki_renewal.revoke(tmp_path, "iad", None)
        assert (tmp_path / "revoked").read_bytes() == content
