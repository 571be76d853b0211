"""The service with its jobs in this very process: no fork, no timeout, so breakpoints work."""

import sys
from pathlib import Path

from procgroup import ProcessGroup

from {{ cookiecutter.__package_name }}.shims import local_redis

BLUEPRINT = Path(__file__).parent.parent / "blueprints" / "service.yaml"


def main() -> None:
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
