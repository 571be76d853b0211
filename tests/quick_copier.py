"""copier as its command line, without asking `git config` once for each file whether modes count.

Four hundred times in an update, which is half of what one takes.
"""

from __future__ import annotations

import contextlib
import runpy
from unittest import mock


def patched() -> contextlib.AbstractContextManager[object]:
    """Copier made quick in this process."""
    return mock.patch("copier._main.Worker._sync_git_index_executable_bit", create=True)


if __name__ == "__main__":
    with patched():
        runpy.run_module("copier", run_name="__main__", alter_sys=True)
