"""Ends in the way it is told to."""

import atexit
import os
import signal
import sys
import threading
import time


def fail() -> None:
    raise ValueError("no luck")


atexit.register(print, "exit function")
print("on its way")
how = sys.argv[1]
if how == "return":
    pass
elif how == "status":
    sys.exit(3)
elif how == "text":
    sys.exit("a reason")
elif how == "exception":
    fail()
elif how == "interrupt":
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1000)
elif how == "terminate":
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGTERM)
elif how == "thread":
    threading.Timer(0.05, print, ["the thread was waited for"]).start()
elif how == "syntax":
    compile("this is no Python", "source", "exec")
