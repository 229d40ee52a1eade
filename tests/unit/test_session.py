"""What a session remembers, wherever Ctrl-C comes."""

from __future__ import annotations

import sys
from types import FrameType, SimpleNamespace
from typing import Any

from pressure.session import Session

TAGS = [b"1", b"2", b"3"]
INSTRUCTIONS = 200


def session() -> Session[Any]:
    made: Session[Any] = Session(SimpleNamespace(estranged=False))
    made.known = True
    made.pending.extend(("g", tag) for tag in TAGS)
    return made


def interrupted(one: Session[Any], after: int) -> bool:
    """Collect, with Ctrl-C after so many steps. Whether it came."""
    left = after

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        # Python 3.12.1 tells of lines alone.
        if event in ("opcode", "line") and frame.f_code.co_name == "collect":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        one.collect()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_the_trace_sees_all_of_it() -> None:
    assert interrupted(session(), 0)
    assert interrupted(session(), 8)
    assert not interrupted(session(), INSTRUCTIONS)


def test_what_was_collected_when_it_was_cut_short_is_acknowledged_later() -> None:
    for after in range(INSTRUCTIONS):
        one = session()
        interrupted(one, after)
        one.stale = True
        one.resolve(0, TAGS)
        assert sorted(tag for _, tag in one.pending) == TAGS, after
        assert one.unseen([(tag, tag) for tag in TAGS], 0, ()) == [], after


def test_nor_does_the_next_use_lose_it() -> None:
    for after in range(INSTRUCTIONS):
        one = session()
        interrupted(one, after)
        acks = one.collect()
        one.acknowledging = None
        one.resolve(0, TAGS)
        assert {*acks.tags, *(tag for _, tag in one.pending)} == {*TAGS}, after


def test_what_was_acknowledged_after_all_is_not_said_again() -> None:
    one = session()
    one.collect()
    one.stale = True
    one.resolve(0, [b"3"])
    assert [tag for _, tag in one.pending] == [b"3"]
