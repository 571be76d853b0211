"""What a local process group runs: the event source mapping over Redis, as one process.

::

    python -m <this module> settings.json                        poll the queue
    python -m <this module> --debug settings.json                the same, breakpoints work
    python -m <this module> --schedule 2026-11-01 settings.json  run the schedule function once

``settings.json`` is generated for each process group. Its ``function.environment`` are the
function's environment variables, so the settings take the same path as on Lambda.
"""

import os
import sys

from local_sqs import SettingsError, load_settings, run
from procgroup.notify import notify_ready


def run_schedule(day: str, settings_path: str) -> None:
    """Run the schedule function as the clock would on that day, and say how much it sent."""
    os.environ.update(load_settings(settings_path).function.environment)
    from .aws_lambda import schedule

    sent = schedule({"scheduled_for": f"{day}T06:00:00Z"}, None)["sent"]
    print(f"{sent} messages sent for {day}")


def run_debug(settings_path: str) -> None:
    """Poll the queue with jobs in this process, without any limit of time."""
    from .aws_lambda import worker

    worker.limited = False  # the deadline guard would end a job that stands at a breakpoint
    run(load_settings(settings_path), debug=True, on_ready=notify_ready)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["--schedule", day, path]:
            run_schedule(day, path)
        case ["--debug", path]:
            run_debug(path)
        case [path] if not path.startswith("-"):
            run(load_settings(path), on_ready=notify_ready)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SettingsError as error:
        sys.exit(str(error))
