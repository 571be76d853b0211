"""The service's own command, ``{{ cookiecutter.project_slug }}``: its local queues, for people."""

import sys

from local_sqs import cli
from procgroup import ProcessGroup
from procgroup.errors import ProcgroupError

SERVICE = "{{ cookiecutter.project_slug }}"


def locate(group_id: str | None) -> cli.Place:
    """The queues of a running process group. Raises NotFound if there is none, or no single one."""
    try:
        group = ProcessGroup.attach(group_id or SERVICE)
    except ProcgroupError as error:
        raise cli.NotFound(
            f"{error}\nStart the service in another terminal: make run\n"
            f"Where several run, choose one: {SERVICE} … --process-group ID"
        ) from None
    names = group.variables
    return cli.Place(
        f"redis://{group['queue'].address}",
        names["queue_name"],
        names["dead_letter_queue_name"],
        names["example_message"],
    )


def main() -> int:
    return cli.main(sys.argv[1:], prog=SERVICE, locate=locate)
