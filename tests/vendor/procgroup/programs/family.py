"""A role that is hard to get rid of.

It ignores SIGTERM if told so, and leaves descendants that do, too: a child, a setsid'd child, and a
double-forked daemon in a session of its own. Their pids go to the file `pids`.
"""

import os
import signal
import sys
import time

from procgroup import notify_ready


def linger() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def fork(*, session: bool, twice: bool) -> int:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        if session:
            os.setsid()
        if twice and os.fork():
            os._exit(0)
        os.write(writer, str(os.getpid()).encode())
        os.close(writer)
        linger()
    if twice:
        os.waitpid(pid, 0)
    os.close(writer)
    found = int(os.read(reader, 32))
    os.close(reader)
    return found


if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [
    fork(session=False, twice=False),
    fork(session=True, twice=False),
    fork(session=True, twice=True),
]
with open("pids", "w") as file:
    file.write(" ".join(map(str, pids)))
print("descendants", *pids, flush=True)
notify_ready()
while True:
    time.sleep(3600)
