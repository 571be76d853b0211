"""How a role says that it is ready. Apart from `discovery`: every role's start pays for this import."""

from __future__ import annotations

import os


def notify_ready() -> None:
    """Tell the supervisor of a role with `ready: {notify: true}` that it is ready.

    Does nothing outside of a group. Other languages write a line to the file that
    $PROCGROUP_NOTIFY names.
    """
    path = os.environ.get("PROCGROUP_NOTIFY")
    if not path:
        return
    try:
        # A supervisor that is gone must not block its role: then there is no reader.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.write(descriptor, b"ready\n")
    finally:
        os.close(descriptor)
