"""Fixtures of the configuration's tests."""

from pathlib import Path

import pytest

from tests.config.support import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Write files and load them."""
    return Files(tmp_path)
