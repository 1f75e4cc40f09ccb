"""`l4proxy pki`: the fleet's CA and the identities of its PoPs. What a certificate is stands in `l4proxy.pki`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from l4proxy.cli.options import JsonOption
from l4proxy.cli.output import note, print_json, print_table

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="The fleet's own CA, and a certificate for each PoP."
)


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,48}", value):
        raise typer.BadParameter(f"{value!r} is not a name: 1 to 48 lower-case letters, digits and hyphens")
    return value


IdentityOption = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Folder of a PoP's identity.", show_default=False)
]

CaOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="Folder of the CA.")]


@app.command()
def init(
    folder: CaOption,
    fleet: Annotated[
        str, typer.Option("--fleet", metavar="NAME", callback=_name, help="The fleet's name, as in its file.")
    ] = "default",
    trusted: Annotated[
        Path | None,
        typer.Option(
            "--trust",
            metavar="CA.pem",
            help="The CA that it takes over from: identities of the new one trust both.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a CA. Its key signs every PoP's certificate: keep it away from the PoPs, but for the issuer."""
    from datetime import UTC, datetime

    from l4proxy import pki

    certificate = pki.init(folder, fleet, datetime.now(UTC), trusted)
    note(
        f"made {certificate}, the CA of the fleet {fleet}; next: l4proxy pki issue POP --dir {folder} --out DIR"
    )


@app.command()
def issue(
    pop: Annotated[
        str, typer.Argument(metavar="POP", callback=_name, help="The PoP's name, as in the fleet file.")
    ],
    folder: CaOption,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where cert.pem, key.pem and ca.pem are written.")
    ],
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is valid.")] = 90,
) -> None:
    """Issue the identity of one PoP. Nothing is overwritten."""
    from datetime import UTC, datetime, timedelta

    from l4proxy import pki

    pki.issue(folder, pop, out, datetime.now(UTC), timedelta(days=days))
    note(f"made the identity of {pop} in {out}; on that PoP: l4proxy run --pop {pop} --identity {out}")


@app.command()
def trust(
    ca_file: Annotated[Path, typer.Argument(metavar="CA.pem", help="A CA's certificate, or several.")],
    folder: IdentityOption,
    only: Annotated[bool, typer.Option("--only", help="And no other any more.")] = False,
) -> None:
    """Have an identity trust a CA too, while one CA takes over from another. A daemon that runs follows."""
    from l4proxy import pki_renewal

    count = pki_renewal.trust(folder, ca_file, only=only)
    note(f"{folder} trusts {count} CA{'' if count == 1 else 's'}")


@app.command()
def revoke(
    folder: IdentityOption,
    pop: Annotated[
        str | None,
        typer.Argument(metavar="POP", help="All certificates of this PoP.", show_default=False),
    ] = None,
    serial: Annotated[
        str | None,
        typer.Option(
            "--serial", metavar="HEX", help="One certificate, as pki show has it.", show_default=False
        ),
    ] = None,
) -> None:
    """Have the PoP of an identity believe a PoP, or one certificate, no more. Do it at every PoP. A daemon that runs follows."""
    from l4proxy import pki_renewal
    from l4proxy.core.revocation import parse_serial

    if (pop is None) == (serial is None):
        raise typer.BadParameter("name a PoP, or give --serial")
    number = None if serial is None else parse_serial(serial)
    if serial is not None and number is None:
        raise typer.BadParameter(f"{serial!r} is not a serial number in hex")
    is_new = pki_renewal.revoke(folder, None if pop is None else _name(pop), number)
    what = f"the certificate {number:x}" if number is not None else pop
    note(f"{what} is revoked in {folder / pki_renewal.REVOKED}" + ("" if is_new else " already"))


@app.command()
def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A certificate, or a folder of them.")],
    json: JsonOption = False,
) -> None:
    """Say whose certificates these are, and until when."""
    from datetime import UTC, datetime

    from l4proxy import pki

    now = datetime.now(UTC)
    found = pki.facts(path)
    if json:
        print_json(
            {
                "certificates": [
                    {
                        "file": str(fact.file),
                        "kind": fact.kind,
                        "fleet": fact.fleet,
                        "pop": fact.pop,
                        "state": fact.state(now),
                        "not_before": fact.not_before.isoformat(),
                        "not_after": fact.not_after.isoformat(),
                        "remaining_s": round((fact.not_after - now).total_seconds()),
                        "serial": fact.serial,
                        "sha256": fact.sha256,
                    }
                    for fact in found
                ]
            }
        )
        return
    print_table(
        ["file", "kind", "fleet", "pop", "state", "until", "serial", "sha256"],
        [
            (
                fact.file.name,
                fact.kind,
                fact.fleet,
                fact.pop,
                fact.state(now),
                f"{fact.not_after:%Y-%m-%d %H:%M}Z ({round((fact.not_after - now).total_seconds() / 86_400)} days)",
                fact.serial,
                fact.sha256[:16],
            )
            for fact in found
        ],
        "no certificates",
    )
