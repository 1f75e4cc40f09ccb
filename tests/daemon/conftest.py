"""The daemon runs on asyncio; its parts that know no loop are tested on both."""

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """A TCP and UDP port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
