"""What a program registers with `multiprocessing` says how its types are pickled, here as there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import managers, resource_sharer, sharedctypes
from multiprocessing.reduction import DupFd, ForkingPickler
from typing import Any

import numpy as np
import pytest

from pressure.executor import RedisExecutor
from pressure.executor.reducers import KNOWN, registered
from tests.executor.crews import MODES, PATIENCE, executor
from tests.support.servers import ServerProcess

LARGE = 1_000_000


class Block:
    """Which plain pickling copies."""

    def __init__(self, name: str, how: str = "copied") -> None:
        self.name, self.how = name, how


class Pipe:
    """Has a descriptor, which plain pickling takes for a number."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor


def attach(name: str) -> Block:
    return Block(name, "attached")


def reduce_block(block: Block) -> Any:
    return attach, (block.name,)


def open_pipe(lent: Any) -> Pipe:
    return Pipe(lent.detach())


def reduce_pipe(pipe: Pipe) -> Any:
    return open_pipe, (DupFd(pipe.descriptor),)


def reduce_as_pytorch(block: Block) -> Any:
    return attach, (block.name,)


reduce_as_pytorch.__module__ = "torch.multiprocessing.reductions"

# What runs in workers


def how(block: Block) -> str:
    return block.how


def make(name: str) -> Block:
    """The worker's part of the registering."""
    ForkingPickler.register(Block, reduce_block)
    return Block(name)


def how_and_sum(block: Block, array: np.ndarray[Any, Any]) -> tuple[str, float]:
    array += 1
    return block.how, float(array.sum())


def make_with_array(name: str) -> tuple[Block, np.ndarray[Any, Any]]:
    return make(name), np.ones(LARGE)


def tell(pipe: Pipe) -> None:
    os.write(pipe.descriptor, b"hello")
    os.close(pipe.descriptor)


def give() -> Pipe:
    ForkingPickler.register(Pipe, reduce_pipe)
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    return Pipe(reader)


def received(reader: int) -> bytes:
    try:
        return os.read(reader, 100)
    finally:
        os.close(reader)


@pytest.fixture(scope="module", autouse=True)
def _no_sharer_left() -> Iterator[None]:
    sharer = vars(resource_sharer)["_resource_sharer"]
    sharer._afterfork()
    yield
    resource_sharer.stop(PATIENCE)


@pytest.fixture
def register() -> Iterator[Callable[[type, Any], None]]:
    """Until the end of the test."""
    kinds = []

    def until_the_end(kind: type, reducer: Any) -> None:
        kinds.append(kind)
        ForkingPickler.register(kind, reducer)

    yield until_the_end
    for kind in kinds:
        KNOWN.pop(kind, None)
    assert not registered()


@pytest.fixture(scope="module")
def local(server: ServerProcess) -> Iterator[RedisExecutor]:
    with executor("local", server.url, "-", 1) as made:
        yield made


@pytest.fixture(scope="module")
def far(server: ServerProcess) -> Iterator[RedisExecutor]:
    with executor("daemon", server.url, f"reducers-{os.urandom(6).hex()}", 1) as made:
        yield made


@pytest.fixture(params=MODES)
def ex(request: pytest.FixtureRequest, local: RedisExecutor, far: RedisExecutor) -> RedisExecutor:
    return local if request.param == "local" else far


@pytest.fixture(params=["stdlib", *MODES])
def each(
    request: pytest.FixtureRequest, local: RedisExecutor, far: RedisExecutor
) -> Iterator[Executor]:
    if request.param != "stdlib":
        yield local if request.param == "local" else far
        return
    with ProcessPoolExecutor(1) as made:
        yield made


def test_arguments_and_results(each: Executor, register: Any) -> None:
    assert each.submit(how, Block("a")).result(PATIENCE) == "copied"
    register(Block, reduce_block)
    assert each.submit(how, Block("a")).result(PATIENCE) == "attached"
    assert list(each.map(how, [Block("a")] * 2)) == ["attached"] * 2
    result = each.submit(make, "a").result(PATIENCE)
    assert (result.name, result.how) == ("a", "attached")


def test_what_goes_by_value(ex: RedisExecutor, register: Any) -> None:
    register(Block, reduce_block)
    block = Block("a")
    assert ex.submit(lambda: block.how).result(PATIENCE) == "attached"
    assert ex.submit(lambda: make("b")).result(PATIENCE).how == "attached"
    done = ex.submit(lambda block, twice: (block.how, twice(2)), block, lambda x: 2 * x)
    assert done.result(PATIENCE) == ("attached", 4)


def test_large_arrays_beside_it(ex: RedisExecutor, register: Any) -> None:
    register(Block, reduce_block)
    for _ in range(3):
        # The same one again is sent only once.
        array = np.ones(LARGE)
        for _ in range(3):
            done = ex.submit(how_and_sum, Block("a"), array).result(PATIENCE)
            assert done == ("attached", 2.0 * LARGE)
    block, array = ex.submit(make_with_array, "a").result(PATIENCE)
    array += 1
    assert (block.how, array[-1]) == ("attached", 2.0)


def test_what_is_shared(ex: RedisExecutor, register: Any) -> None:
    register(Block, reduce_block)
    with ex.share([Block("a"), np.ones(3)]) as shared:
        what = ex.submit(lambda both: (both[0].how, both[1].flags.writeable), shared)
        assert what.result(PATIENCE) == ("attached", False)


def test_what_cant_be_pickled(ex: RedisExecutor, register: Any) -> None:
    register(Block, reduce_block)
    with pytest.raises(TypeError, match="cannot pickle 'generator' object"):
        ex.submit(repr, [Block("a"), (x for x in "")]).result(PATIENCE)
    with pytest.raises(TypeError, match="an open file belongs to one process"), open(__file__) as f:
        ex.submit(repr, [Block("a"), f]).result(PATIENCE)


def test_descriptors_go_to_local_workers(local: RedisExecutor, register: Any) -> None:
    register(Pipe, reduce_pipe)
    by_value: Any = lambda tell, pipe: local.submit(lambda: tell(pipe))  # noqa: E731
    for submit in (local.submit, by_value):
        reader, writer = os.pipe()
        submit(tell, Pipe(writer)).result(PATIENCE)
        os.close(writer)
        assert received(reader) == b"hello"
    assert received(local.submit(give).result(PATIENCE).descriptor) == b"hello"


def test_descriptors_dont_go_to_others(far: RedisExecutor, register: Any) -> None:
    register(Pipe, reduce_pipe)
    reader, writer = os.pipe()
    with pytest.raises(TypeError, match="belongs to one machine"):
        far.submit(tell, Pipe(writer)).result(PATIENCE)
    os.close(writer)
    # Nor is it kept open for anyone.
    assert received(reader) == b""


def test_pytorch_reducers_are_left_alone(local: RedisExecutor, register: Any) -> None:
    register(Block, reduce_as_pytorch)
    assert local.submit(how, Block("a")).result(PATIENCE) == "copied"


def test_what_multiprocessing_registers_itself_is_not_the_programs() -> None:
    before = len(KNOWN)
    sharedctypes.RawValue(ctypes.c_longdouble)
    assert managers.array.array in KNOWN  # type: ignore[attr-defined]
    assert len(KNOWN) > before
    assert not registered()


def attach_anew(name: str) -> Block:
    return Block(name, "attached anew")


def reduce_anew(block: Block) -> Any:
    return attach_anew, (block.name,)


def test_a_reducer_that_takes_the_place_of_another(
    each: Executor, register: Callable[[type, Any], None]
) -> None:
    register(Block, reduce_block)
    assert each.submit(how, Block("b")).result(PATIENCE) == "attached"
    register(Block, reduce_anew)
    assert each.submit(how, Block("b")).result(PATIENCE) == "attached anew"
