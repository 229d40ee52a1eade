"""What a malformed URL gets, and what it never gives away."""

from __future__ import annotations

import pytest

from pressure.address import Address


@pytest.mark.parametrize(
    "url",
    [
        "redis://:se/kret@127.0.0.1:1",
        "redis://user:se?kret@127.0.0.1:1",
        "redis://:se#kret@127.0.0.1:1",
        "http://:sekret@127.0.0.1:1",
        "http://127.0.0.1/?password=sekret&db=1",
    ],
)
def test_a_malformed_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="is no server URL") as caught:
        Address.of(url)
    said = str(caught.value)
    assert "kret" not in said
    assert "'se" not in said
    assert "127.0.0.1" in said
