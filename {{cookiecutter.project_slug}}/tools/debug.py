"""The service with its jobs in this very process: no fork, no timeout, so breakpoints work."""

import os
import pdb  # noqa: T100  this is the debugger's place
import sys
from pathlib import Path
from typing import Any

from procgroup import ProcessGroup

from {{ cookiecutter.__package_name }}.shims import local_redis

BLUEPRINT = Path(__file__).parent.parent / "blueprints" / "service.yaml"


def stop_here(*_: Any, **__: Any) -> None:
    """What `breakpoint()` does, except that ctrl-C stays what ends the whole, after a `c` as well."""
    pdb.Pdb(nosigint=True).set_trace(sys._getframe(1))


def main() -> None:
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = stop_here
    with ProcessGroup.launch(BLUEPRINT) as group:
        worker = group["worker"]
        settings = worker.configs["settings.json"]
        # The same process, with the same settings, but in the foreground instead of the group.
        worker.stop()
        print(group.hint)
        print("Jobs run in this terminal; Ctrl-C ends, unless the debugger has it.")
        print("In the debugger: c goes on, q gives the message back to the queue.\n", flush=True)
        try:
            local_redis.main(["--debug", str(settings)])
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
