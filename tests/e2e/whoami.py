"""An origin that tells each client whom it sees, for the end-to-end tests, and a client that asks. Run as a program inside a namespace.

`serve ADDRESS PORT` answers every TCP connection and every datagram with `PEER-ADDRESS PEER-PORT OWN-ADDRESS`; `tcp|udp HOST PORT`
asks once and prints the answer with the client's own address and port before it; nothing is printed when there is no answer.
"""

import contextlib
import socket
import sys
import threading

PATIENCE_S = 5.0


def serve(address: str, port: int) -> None:
    """Answer for ever."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, port))

    def answer_datagrams() -> None:
        while True:
            _, source = datagrams.recvfrom(65_535)
            with contextlib.suppress(OSError):
                datagrams.sendto(f"{source[0]} {source[1]} {address}".encode(), source)

    threading.Thread(target=answer_datagrams, daemon=True).start()
    while True:
        connection, source = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(f"{source[0]} {source[1]} {address}".encode())


def ask(protocol: str, host: str, port: int) -> str:
    """Return what the origin says, "" when it says nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock, contextlib.suppress(OSError):
        sock.settimeout(PATIENCE_S)
        sock.connect((host, port))
        if protocol == "udp":
            # A datagram may be lost on its way, as the first one of a session towards an address where nobody is.
            sock.settimeout(PATIENCE_S / 5)
        for _ in range(1 if protocol == "tcp" else 5):
            with contextlib.suppress(TimeoutError):
                if protocol == "udp":
                    sock.send(b"?")
                if said := sock.recv(200):
                    own = sock.getsockname()
                    return f"{own[0]} {own[1]} {said.decode()}"
    return ""


def main() -> None:
    """Parse the command line."""
    what, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if what == "serve":
        serve(host, port)
    sys.stdout.write(ask(what, host, port))


if __name__ == "__main__":
    main()
