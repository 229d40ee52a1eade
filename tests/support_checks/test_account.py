from __future__ import annotations

import pickle
import threading
from collections.abc import Callable

import pytest

from tests.support.account import Account, Balance
from tests.support.processes import Child, at


def keep(account: Account, *, but: str = "") -> None:
    for item in range(3):
        account.sent(item)
        account.acknowledged(item)
        if but != f"deliver {item}":
            account.delivered(item)


def test_an_account_that_adds_up_gives_its_balance(account: Account) -> None:
    keep(account)
    account.sent("unknown outcome")
    account.touched(1)
    account.delivered(1)

    assert account.check(at_least=3) == Balance(4, 3, 3, duplicates=1, touched=1)
    assert account.deliveries() == [["0", "1", "2", "1"]]
    assert account.count("delivered") == 3


def test_a_lost_item_is_named(account: Account) -> None:
    keep(account, but="deliver 1")

    with pytest.raises(AssertionError, match="1 lost: acknowledged, never delivered: 1\n"):
        account.check()


def test_an_item_that_nobody_sent_is_named(account: Account) -> None:
    keep(account)
    account.delivered("stray")
    account.acknowledged("ghost")
    account.delivered("ghost")

    with pytest.raises(AssertionError, match="unexpected: delivered, never sent: ghost, stray"):
        account.check()
    with pytest.raises(AssertionError, match="unexpected: acknowledged, never sent: ghost"):
        account.check()


def test_a_duplicate_that_no_fault_touched_is_named(account: Account) -> None:
    keep(account)
    account.delivered(2)
    account.touched(1)

    with pytest.raises(AssertionError, match=r"1 duplicates that no fault touched: 2 \(2 times\)"):
        account.check()


def test_an_item_may_be_delivered_whose_put_did_not_return(account: Account) -> None:
    account.sent("x")
    account.delivered("x")

    assert account.check(at_least=0).delivered == 1


def test_a_run_that_proves_nothing_fails(account: Account) -> None:
    with pytest.raises(AssertionError, match="only 0 acknowledged, wanted 1 at least"):
        account.check()


def test_a_long_list_is_cut_short(account: Account) -> None:
    for item in range(50):
        account.sent(item)
        account.acknowledged(item)

    with pytest.raises(AssertionError, match=r"50 lost.*: 0, 1, 2,.* and 40 more"):
        account.check()


def send_range(account: Account, first: int) -> None:
    for item in range(first, first + 100):
        account.sent(item)


def test_threads_share_it(account: Account) -> None:
    threads = [
        threading.Thread(target=send_range, args=(account, first), daemon=True)
        for first in range(0, 800, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert account.count("sent") == 800


def deliver_and_die(account: Account) -> None:
    account.delivered("last words")
    at("after_delivery")


def test_what_a_killed_process_recorded_survives_it(
    account: Account, spawn_child: Callable[..., Child]
) -> None:
    account.sent("last words")
    account.acknowledged("last words")
    child = spawn_child(deliver_and_die, account, kill_at=["after_delivery"])

    assert child.wait() == -9

    assert account.check() == Balance(1, 1, 1, 0, 0)


def test_a_pickled_account_is_the_same_account(account: Account) -> None:
    copy: Account = pickle.loads(pickle.dumps(account))
    copy.sent(1)

    assert account.count("sent") == 1
