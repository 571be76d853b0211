"""Send a message to the service that `make run` keeps up: $MESSAGE, or a ready-made one.

$GROUP names the process group where several run.
"""

import os
import sys

from local_sqs import Client
from procgroup import ProcessGroup
from procgroup.errors import ProcgroupError

SERVICE = "{{ cookiecutter.project_slug }}"


def main() -> int:
    try:
        group = ProcessGroup.attach(os.environ.get("GROUP") or SERVICE)
    except ProcgroupError as error:
        print(
            f"{error}\nStart the service in another terminal: make run\n"
            "Where several run, choose: make send GROUP=<id>",
            file=sys.stderr,
        )
        return 1
    body = os.environ.get("MESSAGE") or group.variables["example_message"]
    # As `redis-cli RPUSH` does, so that the envelope means the same here.
    with Client.from_url(f"redis://{group['queue'].address}") as redis:
        redis.execute("RPUSH", group.variables["queue_name"], body)
    print(f"sent {body}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
