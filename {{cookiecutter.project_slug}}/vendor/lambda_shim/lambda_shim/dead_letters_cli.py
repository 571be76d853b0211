"""Dead letters at the command line::

    dead-letters ls [filters]                   a table, the oldest first
    dead-letters show KEY                       one record, whole
    dead-letters redrive [filters] [--dry-run] [--rate N] [--runner]
    dead-letters park [filters]                 what waits for the runner
    dead-letters purge [filters]                what is parked: remove it
    dead-letters redrive --whole-queue ARN      SQS moves a dead-letter queue back

As ``python -m lambda_shim.dead_letters_cli --records s3://bucket/prefix …``, or from a service's own
command, which knows its stores and queues and calls ``main`` with them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from lambda_shim import dead_letters
from lambda_shim.contract import BusinessMessage
from lambda_shim.dead_letters import (
    Filter,
    Outcome,
    age_of,
    business_id_of,
    find,
    in_order,
    type_of,
)
from lambda_shim.records import OWN, DeadLetterRecord, Records, open_records, record_key
from lambda_shim.sqs import region_of

if TYPE_CHECKING:
    from lambda_shim.fan_out import Outbox

Decode = Callable[[str], BusinessMessage]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Tools:
    """What the commands work on.

    Args:
        records: the store.
        queue: the queue with this ARN, to redrive to.
        failure_queue: woken after records were handed to the runner; without it the sweep does.
        runner: whether there is one.
    """

    def __init__(
        self,
        records: Records,
        queue: Callable[[str], Outbox],
        failure_queue: Outbox | None = None,
        runner: bool = True,
    ) -> None:
        self.records = records
        self.queue = queue
        self.failure_queue = failure_queue
        self.runner = runner


def duration(text: str) -> float:
    """``90s``, ``15m``, ``2h`` or ``7d`` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 15m, 2h or 7d")
    return float(found[1]) * UNITS[found[2]]


def rate(text: str) -> float:
    """Messages a second."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of messages a second")
    return number


def count(text: str) -> int:
    """A positive integer."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of records from 1 on")
    return int(text)


def given(text: str) -> str:
    """Not empty: a variable that is not set would be a filter that everything passes."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def parser(program: str = "dead-letters", more: str = "") -> argparse.ArgumentParser:
    """The command line's grammar; ``more`` is what its help says last."""
    filters = argparse.ArgumentParser(add_help=False)
    filters.add_argument("keys", nargs="*", type=given, metavar="KEY", help="these records only")
    filters.add_argument(
        "--reason", action="append", type=given, default=[], help="may be repeated"
    )
    filters.add_argument("--state", action="append", choices=["waiting", "running", "parked"])
    filters.add_argument("--older-than", type=duration, metavar="AGE", help="90s, 15m, 2h, 7d")
    filters.add_argument("--newer-than", type=duration, metavar="AGE")
    filters.add_argument("--type", type=given, help="the message's type")
    filters.add_argument(
        "--error", type=given, metavar="TEXT", help="in the error or the traceback"
    )
    filters.add_argument("--business-id", type=given, metavar="ID")
    filters.add_argument("--limit", type=count, metavar="N")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="for programs")
    changing = argparse.ArgumentParser(add_help=False)
    changing.add_argument("--dry-run", action="store_true", help="say what would be done")
    changing.add_argument("--all", action="store_true", help="needed where no filter is given")

    main = argparse.ArgumentParser(prog=program, description="Messages that failed.", epilog=more)
    main.add_argument("--records", metavar="URL", help="s3://bucket/prefix or file://directory")
    commands = main.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", parents=[filters, output], help="list records")
    show = commands.add_parser("show", parents=[output], help="one record, whole")
    show.add_argument("key", metavar="KEY")
    again = commands.add_parser(
        "redrive", parents=[filters, changing, output], help="send parked messages again"
    )
    again.add_argument("--rate", type=rate, metavar="N", help="messages a second, at most")
    again.add_argument(
        "--runner", action="store_true", help="to the overflow runner, not to the queue"
    )
    again.add_argument(
        "--whole-queue", metavar="ARN", help="let SQS move this dead-letter queue back"
    )
    parking = commands.add_parser(
        "park", parents=[filters, changing, output], help="park what waits for the runner"
    )
    parking.add_argument("--why", default="", help="kept as the record's error")
    commands.add_parser("purge", parents=[filters, changing, output], help="remove parked records")
    return main


def tools_of(url: str | None) -> Tools:
    """Tools over AWS: the queue that a record names is where it goes back to."""
    from functools import cache

    from lambda_shim.sqs import SqsQueue, queue_of

    url = url or os.environ.get("RECORDS_URL")
    if not url:
        raise ValueError("name the record store with --records or RECORDS_URL")
    scheme, _, place = url.partition("://")
    if scheme == "file" and not os.path.isdir(place):
        raise ValueError(f"there is no directory {place}")
    failures = os.environ.get("FAILURE_QUEUE_URL")
    return Tools(open_records(url), cache(queue_of), SqsQueue(failures) if failures else None)


def main(
    arguments: Sequence[str],
    open_tools: Callable[[str | None], Tools] = tools_of,
    program: str = "dead-letters",
    more: str = "",
    decode: Decode | None = None,
) -> int:
    """Run a command; returns the exit status: 0 done, 1 something was left or is not there, 2 a wrong
    call, 130 interrupted.

    Args:
        arguments: without the program's name.
        open_tools: gives what the commands work on, told what ``--records`` says. Its ValueError
            is a wrong call. Default: the environment's AWS account.
        program: the command's name, for its help.
        more: the help's last words.
        decode: the service's own: a body to a message, for the business ids of what SQS has
            dead-lettered, which nobody has decoded before.
    """
    grammar = parser(program, more)
    options = grammar.parse_args(arguments)
    try:
        status = _run(options, grammar, open_tools, decode)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted; called again, it goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `ls | head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (why := explained(error)) is None:
            raise
        print(why, file=sys.stderr)
        return 1


def explained(error: Exception) -> str | None:
    """What an operator can mend, in a sentence; None for all else, which is a defect."""
    if isinstance(error, ImportError) and error.name in ("boto3", "botocore"):
        return "AWS is spoken to with boto3, which is not installed here"
    if type(error).__module__.startswith("botocore."):  # no region, no credentials, no such bucket
        return f"AWS: {error}"
    if isinstance(error, msgspec.DecodeError):
        return f"no record: {error}"
    return str(error) if isinstance(error, OSError) else None


def _run(
    options: argparse.Namespace,
    grammar: argparse.ArgumentParser,
    open_tools: Callable[[str | None], Tools],
    decode: Decode | None,
) -> int:
    try:
        if getattr(options, "whole_queue", None):
            return _move(options, grammar)
        tools = open_tools(options.records)
    except ValueError as error:
        grammar.error(str(error))
    if options.command == "show":
        return _show(tools.records, options.key, options.json, decode)
    if getattr(options, "runner", False):
        if not tools.runner:
            grammar.error("this service has no runner: redrive without --runner sends to the queue")
        if options.rate is not None:
            grammar.error(
                "--rate is for what is sent to the queue; the launch budget paces the runner"
            )
    which = _filter(options)
    missing = [key for key in which.keys if tools.records.objects.get(f"{key}.json") is None]
    for key in missing:
        print(f"there is no record {key}", file=sys.stderr)
    if which.keys and len(missing) == len(which.keys) and not options.json:
        return 1
    if which == Filter() and options.command != "ls" and not options.all:
        grammar.error(f"{options.command} needs keys, a filter or --all")
    which = msgspec.structs.replace(which, decode=decode)
    return max(_do(tools, which, options), 1 if missing else 0)


def _filter(options: argparse.Namespace) -> Filter:
    return Filter(
        keys=tuple(dict.fromkeys(map(record_key, options.keys))),
        reasons=tuple(options.reason),
        states=tuple(options.state or ()),
        older_than=options.older_than,
        newer_than=options.newer_than,
        type=options.type,
        error=options.error,
        business_id=options.business_id,
    )


def _do(tools: Tools, which: Filter, options: argparse.Namespace) -> int:
    if options.command == "ls":
        return _list(tools.records, which, options.limit, options.json)
    if options.dry_run:
        return _dry_run(tools.records, which, options)
    match options.command:
        case "redrive" if options.runner:
            outcome = dead_letters.run_again(
                tools.records, which, tools.failure_queue, options.limit
            )
        case "redrive":
            outcome = dead_letters.redrive(
                tools.records, which, tools.queue, rate=options.rate, limit=options.limit
            )
        case "park":
            outcome = dead_letters.park(tools.records, which, options.why, options.limit)
        case _:
            outcome = dead_letters.purge(tools.records, which, options.limit)
    return _tell(outcome, DONE[options.command], options.json)


DONE = {"redrive": "redriven", "park": "parked", "purge": "purged"}
# The state of the records that a command changes.
GIVEN = {"redrive": "parked", "park": "waiting", "purge": "parked"}


def _tell(outcome: Outcome, done: str, as_json: bool) -> int:
    if as_json:
        print(msgspec.json.encode(outcome).decode())
    else:
        for key, why in outcome.left.items():
            print(f"{key}: left alone: {why}", file=sys.stderr)
        for key in outcome.without_history:
            print(f"{key}: its message had no room for its history", file=sys.stderr)
        print(f"{len(outcome.done)} {done}, {len(outcome.left)} left alone")
    return 1 if outcome.left else 0


def _dry_run(records: Records, which: Filter, options: argparse.Namespace) -> int:
    given = GIVEN[options.command]
    unreadable: dict[str, str] = {}
    order = in_order if options.command == "redrive" else find
    every = order(records, which, unreadable)
    found = list(islice((each for each in every if each.state == given), options.limit))
    if options.json:
        outcome = Outcome([each.key for each in found], unreadable)
        print(msgspec.json.encode(outcome).decode())
    else:
        _table(found, which.decode)
        print(f"{len(found)} would be {DONE[options.command]}")
    return _tell_unreadable(unreadable)


def _tell_unreadable(unreadable: dict[str, str]) -> int:
    for key, why in unreadable.items():
        print(f"{key}: {why}", file=sys.stderr)
    return 1 if unreadable else 0


def _move(options: argparse.Namespace, grammar: argparse.ArgumentParser) -> int:
    if _filter(options) != Filter() or options.limit is not None or options.runner:
        grammar.error("--whole-queue moves all of a queue: it takes no keys, filters or --runner")
    if options.rate is not None and options.rate != int(options.rate):
        grammar.error("with --whole-queue SQS moves whole messages a second, from 1 on")
    if options.dry_run:
        region_of(options.whole_queue)  # as the move itself does
        said = f"SQS would move {options.whole_queue} back to where its messages came from"
        print(msgspec.json.encode({"task": None}).decode() if options.json else said)
        return 0
    whole = None if options.rate is None else int(options.rate)
    handle = dead_letters.move_queue(options.whole_queue, rate=whole)
    print(msgspec.json.encode({"task": handle}).decode() if options.json else f"moving: {handle}")
    return 0


def _show(records: Records, key: str, as_json: bool, decode: Decode | None) -> int:
    record = records.get(record_key(key))
    if record is None:
        print(f"there is no record {key}", file=sys.stderr)
        return 1
    if as_json:
        print(msgspec.json.encode(_all_of(record, decode)).decode())
        return 0
    fields = {
        "key": record.key,
        "state": record.state,
        "reason": record.reason,
        "error": record.error,
        "type": type_of(record) or "-",
        "business id": business_id_of(record, decode) or "-",
        "attempts": f"{record.attempts} deliveries, {record.runs} failed runs",
        "first failed": record.first_failed_at or record.parked_at,
        "source": record.source,
        "function": f"{record.function} {record.request_id}".strip(),
        "log": record.log or "-",
    }
    if group := record.attributes.get("MessageGroupId"):
        fields["group"] = str(group)
    if record.pool != OWN:
        fields["pool"] = record.pool
    for name, value in fields.items():
        print(f"{name:>12}  {printable(value)}")
    if record.message_attributes:
        print("\nattributes")
    for name, attribute in record.message_attributes.items():
        print(printable(f"  {name}  {_text_of(attribute)}"))
    print("\nhistory")
    for event in record.history:
        print(printable(f"  {event.at}  {event.event:<14} {event.detail}").rstrip())
    if record.traceback:
        print(f"\n{printable(record.traceback, lines=True)}")
    print(f"\nbody\n{printable(record.body, lines=True)}")
    return 0


def _text_of(attribute: Any) -> str:
    """A message attribute's value; one of bytes as the base64 that it is recorded as."""
    if not isinstance(attribute, dict):
        return str(attribute)
    return str(attribute.get("stringValue") or attribute.get("binaryValue") or "")


def _all_of(record: DeadLetterRecord, decode: Decode | None) -> dict[str, Any]:
    """For programs: every field, and the key that the commands take."""
    fields = msgspec.structs.asdict(record)
    return {"key": record.key, **fields, "business_id": business_id_of(record, decode)}


def _list(records: Records, which: Filter, limit: int | None, as_json: bool) -> int:
    unreadable: dict[str, str] = {}
    every = find(records, which, unreadable)
    found = sorted(every, key=lambda record: record.parked_at)[:limit]
    if as_json:
        every_field = [_all_of(record, which.decode) for record in found]
        print(msgspec.json.encode(every_field).decode())
    else:
        _table(found, which.decode)
    return _tell_unreadable(unreadable)


def _table(found: Sequence[DeadLetterRecord], decode: Decode | None) -> None:
    """One line a record, as wide as the terminal; whole where the output is no terminal."""
    if not found:
        print("no records")
        return
    now = time.time()
    heads = ("KEY", "STATE", "REASON", "ATTEMPTS", "AGE", "BUSINESS ID", "LAST ERROR")
    rows = [
        (
            record.key,
            record.state,
            record.reason,
            str(record.attempts + record.runs),
            age(age_of(record, now)),
            printable(business_id_of(record, decode) or "-"),
            printable(record.error),
        )
        for record in found
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)][:-1]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in (heads, *rows):
        line = "  ".join([*map(str.ljust, row, widths), row[-1]])
        print(line[:width].rstrip())


def age(seconds: float) -> str:
    """``42s``, ``15m``, ``3h`` or ``9d``: whole units of the largest that fits."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def printable(text: str, lines: bool = False) -> str:
    """A message's text can hold anything: control characters do not reach the terminal."""
    return "".join(
        c
        if c.isprintable() or (lines and c in "\n\t")
        else " "
        if c in "\n\t"
        else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
