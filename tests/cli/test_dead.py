"""`pressure dead`: dead letters are shown without being believed, put back, and dropped."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pressure import PressureQueue, QueueEmptyError, Settings, SignatureError
from pressure.cli.autopsy import dissected, hexdump, names_in
from pressure.envelope import pack
from pressure.executor.records import pack_task
from pressure.keys import Keys
from tests.cli.conftest import Run

Queue = PressureQueue[Any]


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.mkdir, (self._path,)


@pytest.fixture
def q(queue_name: str, url: str, namespace: str) -> Iterator[Queue]:
    settings = Settings(max_deliveries=1)
    with Queue(queue_name, url=url, prefix=namespace, settings=settings) as queue:
        queue.create()
        yield queue


def bury(q: Queue, *objs: object) -> list[str]:
    """Have these items refused for their signatures; returns their ids, the oldest letter's
    first."""
    stranger = Queue(
        q.name, url=q._handle.address.url, prefix=q._core.protocol.keys.prefix, key="x"
    )
    for obj in objs:
        q.put(obj)
        with pytest.raises(SignatureError):
            stranger.get(timeout=5)
    stranger.disconnect()
    return [letter.id for letter in q.dead_letters][::-1]


class TestList:
    def test_of_one_queue_and_of_all(self, run: Run, q: Queue, queue_name: str) -> None:
        assert run("dead", "list") == (0, "There are no dead letters.\n")
        ids = bury(q, "one", "two")
        for words in (["dead", "list"], ["dead", "list", queue_name]):
            ran = run(*words, "--json")
            assert [row["id"] for row in ran.json()] == ids[::-1]
            row = ran.json()[0]
            assert (row["queue"], row["reason"], row["deliveries"]) == (queue_name, "signature", 0)
            assert 0 <= row["dead_for"] <= row["age"] < 60 and row["size"] > 66
            text = run(*words).text
            assert all(f"{queue_name}  {id}  signature " in text for id in ids)
        assert (
            "(There are more than these 1: see --limit.)"
            in run("dead", "list", "--limit", "1").text
        )
        assert "2 dead letters: see `pressure dead list`." in run("info").text

    def test_of_the_others_if_one_is_broken(
        self, run: Run, q: Queue, url: str, namespace: str, client: redis.Redis
    ) -> None:
        bury(q, "one")
        with Queue(f"{q.name}-broken", url=url, prefix=namespace) as broken:
            broken.create()
            client.set(broken._core.protocol.keys.dead_letters, "junk")
            ran = run("dead", "list")
            assert ran.code == 0 and q.name in ran.text
            assert repr(broken.name) in ran.text and "WRONGTYPE" in ran.text
            assert run("dead", "list", broken.name).code == 1
            broken.delete()

    def test_of_raw_items(self, run: Run, url: str, namespace: str, queue_name: str) -> None:
        settings = Settings(max_deliveries=1)
        with Queue(queue_name, url=url, prefix=namespace, codec="raw", settings=settings) as q:
            q.create()
            q.put(b"raw\x1b[31m")
            q.lease(timeout=5).give_back()
            with pytest.raises(QueueEmptyError):
                q.get(timeout=0.01)
            (row,) = run("dead", "list", "--json").json()
            assert (row["deliveries"], row["age"], len(row["id"])) == (1, None, 40)
            shown = run("dead", "show", queue_name, row["id"]).text
            assert "raw bytes, or no envelope" in shown and "raw.[31m" in shown
            assert run("dead", "replay", queue_name, "--all").code == 0
            assert q.get_nowait() == b"raw\x1b[31m"

    def test_a_forged_one_commands_nobody(
        self, run: Run, q: Queue, namespace: str, client: redis.Redis
    ) -> None:
        reason = b'{"reason": "\\u001b[2J", "error": "\\u202e\\u0007", "more": ["\\u001b"]}'
        keys = Keys(namespace, q.name)
        forged = struct.pack(">QI", 2**63, len(reason)) + reason + b"\x1b]0;item\x07"
        client.lpush(keys.dead_letters, forged, b"no letter at all \x1b")
        texts = [run("dead", "list").text]
        for row in run("dead", "list", "--json").json():
            texts.append(run("dead", "show", q.name, row["id"]).text)
        assert len(texts) == 3
        assert not any(char in text for text in texts for char in "\x1b\x07\u202e")
        assert "\\x1b[2J" in texts[0]
        assert run("dead", "purge", q.name, "--all", "-y").text.startswith("dropped 2 ")
        assert len(q.dead_letters) == 0


class TestShow:
    def test_nothing_is_unpickled(self, run: Run, q: Queue, tmp_path: Path) -> None:
        (id,) = bury(q, Bomb(tmp_path / "made"))
        shown = run("dead", "show", q.name, id[:6])
        assert shown.code == 0
        said = run("dead", "show", q.name, id, "--json").json()
        assert said["names"] == ["pathlib.Path.mkdir"] or "Path" in str(said["names"])
        assert "signature" in shown.text and "00000000  10 00" in shown.text
        assert run("dead", "list").code == run("info").code == 0
        assert run("dead", "replay", q.name, id).code == 0
        assert run("queue", "purge", q.name, "-y").code == 0
        assert not (tmp_path / "made").exists()

    def test_as_much_as_is_wanted(self, run: Run, q: Queue) -> None:
        (id,) = bury(q, b"x" * 1000)
        assert "(0 bytes" not in run("dead", "show", q.name, id, "--bytes", "5000").text
        few = run("dead", "show", q.name, id, "--bytes", "16").text
        assert few.count("\n00000") == 1 and "bytes more: see --bytes)" in few
        assert len(run("dead", "show", q.name, id, "--json", "--bytes", "3").json()["hex"]) == 6

    def test_which_one(self, run: Run, q: Queue) -> None:
        bury(q, 1, 2)
        for id in ("none", "", "00"):
            ran = run("dead", "show", q.name, id)
            assert ran.code == 2
            assert "has no dead letter" in ran.text
        assert run("dead", "show", "nowhere", "ffff").code == 4
        assert run("dead", "replay", q.name).code == 2
        assert run("dead", "purge", q.name, "abcd", "--all").code == 2
        # They differ only in what the client counts.
        assert "2 dead letters have ids" in run("dead", "show", q.name, _common(q)).text


def _common(q: Queue) -> str:
    first, second = (letter.id for letter in q.dead_letters)
    return first[: next(at for at in range(32) if first[at] != second[at])]


class TestReplayAndPurge:
    def test_some_and_all(self, run: Run, q: Queue) -> None:
        ids = bury(q, *range(5))
        assert run("dead", "replay", q.name, ids[3]) == (
            0,
            f"put 1 dead letters back into the plain queue {q.name}\n",
        )
        assert q.get_nowait() == 3
        assert run("dead", "purge", q.name, ids[0], stdin="n\n").code == 1
        assert len(q.dead_letters) == 4
        assert run("dead", "purge", q.name, ids[0], stdin="y\n").code == 0
        assert run("dead", "replay", q.name, "--all").code == 0
        assert [q.get_nowait() for _ in range(3)] == [1, 2, 4]
        assert len(q.dead_letters) == 0

    def test_into_a_closed_queue(self, run: Run, q: Queue) -> None:
        bury(q, 1)
        q.close()
        assert run("dead", "replay", q.name, "--all").code == 5
        assert len(q.dead_letters) == 1


class TestAutopsy:
    def test_the_names_in_a_task(self, tmp_path: Path) -> None:
        arguments = pickle.dumps(((Bomb(tmp_path),), {}), 5)
        body = bytes(pack_task(pickle.dumps(print, 5), arguments, stored=False))
        item = pack(
            body,
            flags=1,
            max_deliveries=3,
            message_id=b"m" * 16,
            client_id=b"c" * 16,
            key_id=b"k" * 4,
        )
        facts = dissected(item, task=True)
        assert facts["function"] == ["builtins.print"]
        assert facts["signed"] == f"with key {b'kkkk'.hex()}"
        assert "pathlib" in str(facts["arguments"])
        stored = bytes(pack_task(b"d" * 16, arguments, stored=True))
        item = pack(stored, flags=0, max_deliveries=3, message_id=b"m" * 16, client_id=b"c" * 16)
        assert dissected(item, task=True)["function"] == f"stored under {(b'd' * 16).hex()}"
        assert dissected(item[:66], task=True)["body"] == "is no task"

    @pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x05\x93\x93.", b"h\x05\x93" * 9, b"V\3"])
    def test_nonsense_has_no_names(self, data: bytes) -> None:
        assert names_in(data) == []

    def test_hexdump(self) -> None:
        assert hexdump(b"") == ""
        dump = hexdump(bytes(range(20)) + b"\x1bABC").splitlines()
        assert dump[0].startswith("00000000  00 01 02") and dump[0].endswith(" " + "." * 16)
        assert dump[1].startswith("00000010  10 11 12 13 1b 41 42 43 ") and dump[1].endswith("ABC")
