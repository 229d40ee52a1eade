"""What the first process of a container (process 1) has to do, so that the daemon needn't.

It inherits the orphans of all others and must reap them, and the kernel gives it no signal that it
has no handler for. So the daemon itself becomes its child: that alone has workers, and nobody else
reaps them.
"""

from __future__ import annotations

import os
import signal

__all__ = ["leave_to_child"]

_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def leave_to_child() -> None:
    """Fork. Returns in the child only; this process passes signals on to it, reaps whatever it
    inherits, and ends as the child does (if that is killed by a signal, with 128 and its number).
    """
    wanted = {*_PASSED_ON, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    child = os.fork()
    if child == 0:
        # Ctrl-C at the container's terminal then comes once: passed on.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    while True:
        number = signal.sigwait(wanted)
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
            if pid == 0:
                break
