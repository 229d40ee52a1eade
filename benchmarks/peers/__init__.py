"""What a user would pick instead, each run as its own documentation advises for speed.

A peer is one module here. It is run by an environment of its own, where nothing but the peer and
the standard library is installed, and imports nothing else; `benchmarks.peers.driving` asks it.
"""
