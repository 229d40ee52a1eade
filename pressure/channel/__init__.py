"""A queue as the executor uses it: records of bytes, claimed on lease and answered.

`pressure.channel.channel` says how. Beside it lies what supervisors (`estate`), daemons
(`registry`) and operators (`inventory`) do at the server.
"""

from __future__ import annotations

from pressure.channel.channel import Channel
from pressure.channel.consuming import Consumer, Sealed, Verdict
from pressure.parcels import Delivery, Record, pack

__all__ = ["Channel", "Consumer", "Delivery", "Record", "Sealed", "Verdict", "pack"]
