"""Time-outs as callers give them."""

from __future__ import annotations

import pytest

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
