"""A task's program: says that it runs, then does as $DO says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["PLACE"])
stopped = False


def stop(number: int, frame: object) -> None:
    global stopped
    stopped = True


does = os.environ["DO"]
if does == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif does == "save":
    signal.signal(signal.SIGTERM, stop)
elif does == "family":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (HERE / "child").write_text(str(child.pid))
(HERE / f"ran-{os.getpid()}").write_text(os.environ.get("POINTER", ""))
if does.startswith("exit"):
    sys.exit(int(does.split()[1]))
while not stopped:
    time.sleep(0.02)
(HERE / "saved").touch()
