"""CPython's own test suites, run against our classes.

Nothing of those suites is copied: they are imported from the `test` package of the running
interpreter and bound to other classes. Where an interpreter comes without them (Linux
distributions often leave them out), the tests skip and say so.
"""
