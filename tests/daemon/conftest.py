"""Fixtures of the daemon's tests: its parts run on the loop of production and on that of simulations."""

import pytest

from l4proxy.lab import ports


@pytest.fixture
def free_port() -> int:
    """A TCP and UDP port that nobody uses now."""
    return ports.free_port()


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"), pytest.param("trio", id="trio")],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The loop of production, and the one that simulations run on."""
    return request.param
