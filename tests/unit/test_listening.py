"""How a client's listener acknowledges answers. No server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pressure.address import Address
from pressure.channel import Channel, Consumer
from pressure.errors import ServerUnavailableError
from pressure.executor.client.dispatcher import Dispatcher
from pressure.settings import Settings


class ShakyConsumer:
    """Its server is away at first."""

    def __init__(self) -> None:
        self.acknowledged: list[list[bytes]] = []

    def exchange(self, *_: object, done: Sequence[bytes]) -> list[Any]:
        self.acknowledged.append(list(done))
        if len(self.acknowledged) == 1:
            raise ServerUnavailableError("it is away")
        return []


def test_what_could_not_be_acknowledged_is_acknowledged_later() -> None:
    """It does not come again by itself, and would stay at the server."""
    address = Address.of("unix:///nowhere")
    channel = Channel("q", address, tag="q", prefix="p", settings=Settings())
    dispatcher = Dispatcher(channel, bound=1, window=1)
    shaky = ShakyConsumer()
    acks = [b"id"]
    for _ in range(3):
        assert dispatcher._exchange(cast(Consumer, shaky), acks) == []
    assert shaky.acknowledged == [[b"id"], [b"id"], []]
