"""The service's own command, ``{{ cookiecutter.project_slug }}``: queues and dead letters, for people."""

import sys

from local_sqs import cli
from procgroup import ProcessGroup
from procgroup.errors import ProcgroupError

SERVICE = "{{ cookiecutter.project_slug }}"


def attach(group_id: str | None) -> ProcessGroup:
    """A running process group. Raises NotFound if there is none, or no single one."""
    try:
        if group_id:
            return ProcessGroup.attach(group_id)
        return ProcessGroup.attach(SERVICE, by_name=True)
    except ProcgroupError as error:
        raise cli.NotFound(
            f"{error}\nStart the service in another terminal: make run\n"
            f"Where several run, choose one: {SERVICE} … --process-group ID"
        ) from None


def locate(group_id: str | None) -> cli.Place:
    """The queues of a running process group. Raises NotFound as ``attach`` does."""
    group = attach(group_id)
    names = group.variables
    return cli.Place(
        f"redis://{group['queue'].address}",
        names["queue_name"],
        names["dead_letter_queue_name"],
        names["example_message"],
    )


def main() -> int:
    if sys.argv[1:2] == ["dead-letters"]:
        from .dead_letters_cli import main as dead_letters

        return dead_letters(sys.argv[2:])
    more = f"Messages that failed, here and on AWS: {SERVICE} dead-letters --help"
    return cli.main(sys.argv[1:], prog=SERVICE, locate=locate, more=more)


if __name__ == "__main__":
    sys.exit(main())
