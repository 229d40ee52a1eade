"""Queues that tasks use, in worker processes which may be killed when their outcomes are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pressure.multiprocessing as mp
from pressure import RedisExecutor
from tests.support.servers import ServerProcess

WAIT = 30.0
AT_ONCE = 5.0
"""Seconds, less than a lease: what was not given back comes later."""

_queue: Any = None


def use(made: Any) -> None:
    global _queue
    _queue = made


def put_three(number: int) -> None:
    for part in range(3):
        _queue.put((number, part))


def put_in(made: Any, count: int) -> None:
    for number in range(count):
        made.put(number)


def get_some(count: int) -> list[int]:
    return [_queue.get(timeout=WAIT) for _ in range(count)]


@pytest.fixture(params=[(mp.Queue, 0), (mp.Queue, 1000), (mp.JoinableQueue, 0)])
def made(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    kind, bound = request.param
    queue: Any = kind(bound, url=url)
    yield queue
    queue.delete()
    queue.close()
    queue.join_thread()


def test_what_tasks_have_put_is_there_when_their_results_are(made: Any) -> None:
    for _ in range(5):
        with mp.Pool(2, use, (made,)) as pool:
            pool.map(put_three, range(10), 1)
            size = made._remote.size()
        assert size.length == 30
        assert not size.reserved, "who is killed must not keep places"
        got = {made.get(timeout=AT_ONCE) for _ in range(30)}
        assert got == {(number, part) for number in range(10) for part in range(3)}


def test_what_tasks_have_got_comes_no_more_and_the_rest_does(made: Any) -> None:
    for number in range(200):
        made.put(number)
    with mp.Pool(2, use, (made,)) as pool:
        got = [number for part in pool.map(get_some, [15] * 4, 1) for number in part]
    got += [made.get(timeout=AT_ONCE) for _ in range(140)]
    assert sorted(got) == list(range(200))
    assert made.empty()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_executors_tasks_lose_nothing_either(method: str, made: Any) -> None:
    executor = RedisExecutor(1, mp_context=mp.get_context(method))
    executor.submit(put_in, made, 100).result(WAIT)
    assert made._remote.size().length == 100
    executor.submit(put_in, made, 100).result(WAIT)
    executor.kill_workers()
    assert made._remote.size().length == 200


def test_results_do_not_wait_for_a_queues_server_that_is_away(
    make_server: Callable[..., ServerProcess],
) -> None:
    server = make_server()
    away: Any = mp.Queue(url=server.url)
    with mp.Pool(1, use, (away,)) as pool:
        pool.apply(put_three, (1,))
        server.kill()
        pool.apply_async(put_three, (2,)).get(WAIT)
    away.close()
    away.cancel_join_thread()
