"""Becoming a role: a fork of a warm keeper goes on as `python -m MODULE` would.

The fork unwinds the keeper's and the warden's stack by an exception, so that nothing of them is on
it when the module runs, and the interpreter ends as any other does: threads joined, exit functions
called, status given.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time

from procgroup import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


COLLECT = gc.get_threshold()  # the interpreter's own; imported before the warden changes it


class BecomeRole(BaseException):
    """Raised in a keeper's fork, caught by the main function, which then calls `run`."""

    def __init__(self, plan: dict[str, Any]) -> None:
        super().__init__()
        self.plan = plan


def _python_path(directory: str) -> list[str]:
    """The entries that $PYTHONPATH adds to sys.path in a process that starts in `directory`."""
    text = os.environ.get("PYTHONPATH", "")
    return [os.path.join(directory, entry) for entry in text.split(os.pathsep) if entry]


def run(plan: dict[str, Any]) -> NoReturn:
    """Run the plan's module in this process, which is in its directory and writes to its log."""
    import builtins
    import runpy
    import types

    gc.freeze()  # the keeper's objects: nobody will use them, and their pages are shared
    gc.set_threshold(*COLLECT)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    own = set(_python_path("/"))
    # One by one: what `update` looks up first dirties 60 kB of shared pages.
    for name, value in plan["environment"].items():
        os.environ[name] = value
    time.tzset()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    directory = os.getcwd()
    base = [entry for entry in sys.path if entry not in own]
    first = [] if sys.flags.safe_path else [directory]
    sys.path[:] = dict.fromkeys([*first, *_python_path(directory), *base])
    module, arguments = plan["module"], plan["arguments"]
    sys.argv[:] = ["-m", *arguments]  # runpy puts the module's file first
    sys.orig_argv[:] = [sys.executable, "-m", module, *arguments]
    processes.retitle(sys.orig_argv, plan["environment"])
    if processes.foreign_package:
        for name in [name for name in sys.modules if name.partition(".")[0] == "procgroup"]:
            del sys.modules[name]
    # The interpreter's handlers at start; those of this process were the keeper's.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    try:
        # What the interpreter itself calls for `-m`.
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    except SystemExit:
        raise
    except BaseException as error:
        shown = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        sys.excepthook(type(shown), shown, shown.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            sys.excepthook = lambda *_: None
            raise  # the interpreter then ends by SIGINT
        sys.exit(1)
    sys.exit(0)
