"""Fixtures of the daemon's tests: its parts run on the loop of production and on that of simulations."""

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """A TCP and UDP port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"), pytest.param("trio", id="trio")],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The loop of production, and the one that simulations run on."""
    return request.param
