"""What holds for every test: the fixtures of tests/support, and no deadline per Hypothesis example.

A deadline would be an assertion on speed; the time-out of the whole test (setup.cfg) is what
guards against a hang.
"""

from __future__ import annotations

import hypothesis

pytest_plugins = ["tests.support.fixtures"]

hypothesis.settings.register_profile("pressure", deadline=None)
hypothesis.settings.load_profile("pressure")
