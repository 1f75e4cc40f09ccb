"""Targets of benchmarks: `HOST:PORT` as people write it, to one address."""

import socket


def split(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `1.2.3.4:port` or `[::1]:port`. ValueError for anything else."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text}: write an IPv6 address in brackets, such as [::1]:4000")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text}: not HOST:PORT")
    return host, int(port)


def parse_target(text: str) -> str:
    """Return `ADDR:PORT` (`[ADDR]:PORT` for IPv6) of a target. A name is resolved to its first address.

    ValueError for what is not HOST:PORT or names port 0, OSError for a name that does not resolve.
    """
    host, port = split(text)
    if port == 0:
        raise ValueError(f"{text}: no port 0")
    return _resolve(host, port)


def parse_listen(text: str) -> str:
    """Return `ADDR:PORT` of an address to listen on; port 0 takes any free one. Errors as for `parse_target`."""
    return _resolve(*split(text))


def _resolve(host: str, port: int) -> str:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
