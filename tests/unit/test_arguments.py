"""What callers give, refused in words that say what it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pressure import PressureQueue, Settings, aio
from pressure.arguments import deadline, lenient_deadline, put_deadline

NAN = float("nan")


def test_a_nan_is_refused_and_not_waited_for() -> None:
    for limit in (
        deadline,
        lenient_deadline,
        lambda block, timeout: put_deadline(block, timeout, 0),
    ):
        with pytest.raises(ValueError, match="non-negative number"):
            limit(True, NAN)
        assert limit(False, NAN) == 0.0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"max_deliveries": 1.5}, TypeError, "max_deliveries must be an int, not float"),
        ({"max_item_bytes": "1"}, TypeError, "max_item_bytes must be a number, not str"),
        ({"min_replicas": 1.0}, TypeError, "min_replicas must be an int, not float"),
        ({"lease": "5"}, TypeError, "lease must be a number, not str"),
        ({"reconnect_timeout": None}, TypeError, "reconnect_timeout must be a number, not None"),
        ({"ttl": -1}, ValueError, "ttl must be positive"),
        ({"ttl": 0}, ValueError, "ttl must be positive"),
        ({"ttl": NAN}, ValueError, "ttl must be positive"),
    ],
)
def test_settings(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Settings(**given)


@pytest.mark.parametrize("kind", [PressureQueue, aio.PressureQueue])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": 5}, "url must be a str, not int"),
        ({"client": 5}, "client must be one of redis-py, not int"),
        ({"key": 5}, "key must be bytes, a str, or several, not int"),
        ({"key": ["a", 5]}, "a signing key must be bytes or a str, not int"),
        ({"prefix": 5}, "prefix must be a str, not int"),
        ({"settings": 5}, "settings must be pressure.Settings, not int"),
    ],
)
def test_a_queue(kind: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        kind("name", **given)


def test_a_codec_that_makes_text() -> None:
    q: PressureQueue[Any] = PressureQueue("name", codec=json)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="returned str, not bytes"):
        q.put({"a": 1})
