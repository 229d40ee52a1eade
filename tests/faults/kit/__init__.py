"""Named faults, and what they are inflicted on.

A fault is an object with two verbs: `strike` inflicts it, `heal` ends what does not pass by itself;
as a context manager it does the one at the start and the other at the end of its block.

    module          faults
    network         of connections, by `FaultyProxy`: cut, stalled, swallowed, replies lost
    server          of the server: killed, frozen, empty, out of memory, read only, and so on
    processes       of processes: killed or frozen, one worker, a whole machine
    surroundings    of a process's surroundings: no file descriptors left, a clock that is wrong
    crashing        objects that fail while they are pickled, unpickled or run

`traffic` carries numbers through the queue, asyncio, the executor or the shims, and keeps the books
(`tests.support.account`), in which nothing may be lost, doubled, or unexpected.
"""
