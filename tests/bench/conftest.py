"""A reflector that serves on loopback while a test runs."""

import threading
from collections.abc import Iterator

import pytest

from l4proxy.bench import Reflector


@pytest.fixture
def target() -> Iterator[str]:
    """Yield the address of a reflector."""
    reflector = Reflector("127.0.0.1:0")
    thread = threading.Thread(target=reflector.run, args=(60.0,))
    thread.start()
    yield reflector.address
    reflector.stop()
    thread.join(10)
    assert not thread.is_alive()
