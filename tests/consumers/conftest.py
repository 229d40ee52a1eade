from __future__ import annotations

from collections.abc import Iterator

import pytest

from pressure import RedisExecutor


@pytest.fixture(scope="module")
def executor() -> Iterator[RedisExecutor]:
    """Two local workers, for all tests of a module."""
    with RedisExecutor(2) as executor:
        yield executor
