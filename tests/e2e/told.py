"""An origin that repeats what the PROXY header of version 2 before each connection and each datagram says, for the end-to-end tests.

Run as a program inside a namespace: `ADDRESS PORT`. It answers with `CLIENT-ADDRESS CLIENT-PORT LISTENER-ADDRESS LISTENER-PORT`.
"""

import contextlib
import socket
import sys
import threading

from tests.identity.headers import Said, read_binary, read_datagram


def words(said: Said) -> bytes:
    """Return what a header says."""
    return " ".join(str(word) for word in (*said.client, *said.proxy)).encode()


def answer(connection: socket.socket) -> None:
    """Answer one connection; one that says nothing is the daemon's own look, whether somebody is there."""
    reader = connection.makefile("rb")
    with connection, reader, contextlib.suppress(OSError):
        if reader.peek(1):
            connection.sendall(words(read_binary(reader.read)))


def main() -> None:
    """Answer for ever."""
    address, port = sys.argv[1], int(sys.argv[2])
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, port))

    def answer_datagrams() -> None:
        while True:
            datagram, source = datagrams.recvfrom(65_535)
            datagrams.sendto(words(read_datagram(datagram)[0]), source)

    threading.Thread(target=answer_datagrams, daemon=True).start()
    listener = socket.create_server((address, port))
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main()
