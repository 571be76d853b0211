"""Queues at the command line: how full they are, what is in them, send, empty.

A service makes it its own command with `main`, by saying where its queues are.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from .client import ConnectionLost
from .limits import Refused, check
from .message import Entry, Message
from .queue import Queue

CLEAR = "\x1b[H\x1b[J"


class NotFound(Exception):
    """There are no queues to speak to; the text says what to do about it."""


@dataclass(frozen=True)
class Place:
    """Where a service's queues are: Redis as `redis://host:port`, their names, and a body to send when
    none is given."""

    redis: str
    queue: str
    dead_letter_queue: str
    example: str

    def open(self, *, dead: bool = False) -> Queue:
        """One of the two. Raises ConnectionLost, at the first use, when no server answers."""
        name = self.dead_letter_queue if dead else self.queue
        return Queue.open(f"{self.redis}/{name}", retry_for=0.0)


def main(
    arguments: Sequence[str],
    *,
    prog: str,
    locate: Callable[[str | None], Place],
    more: str | None = None,
) -> int:
    """Run one command; gives its exit status.

    `locate`: finds the queues of the process group with this id, or of the only one there is. It may
    raise NotFound. `more`: the help's last words.
    """
    options = _parser(prog, more).parse_args(arguments)
    try:
        place = locate(options.process_group)
        status: int = options.run(options, place)
    except (NotFound, Refused) as error:
        print(error, file=sys.stderr)
        return 1
    except ConnectionLost as error:
        print(f"Redis does not answer at {place.redis}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        sys.stderr.close()
        return 141
    return status


def _parser(prog: str, more: str | None = None) -> argparse.ArgumentParser:
    description = "The local queues of this service."
    parser = argparse.ArgumentParser(prog=prog, description=description, epilog=more)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any, Place], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        sub.add_argument(
            "--process-group", metavar="ID", help="which one, where several run (procgroup ps)"
        )
        return sub

    queues = command("queues", _queues, "show how full the queues are")
    queues.add_argument("--watch", "-w", action="store_true", help="show it anew until Ctrl-C")
    queues.add_argument(
        "--interval", type=_positive, default=1.0, metavar="SECONDS", help="between two (1)"
    )
    queues.add_argument("--json", action="store_true", help="a JSON line instead of a table")

    send = command("send", _send, "send a message")
    send.add_argument(
        "body", nargs="?", help="its body; - reads standard input; none sends the ready-made one"
    )
    send.add_argument("--delay", type=float, metavar="SECONDS", help="before it can be received")
    send.add_argument("--group-id", metavar="ID", help="its message group")
    send.add_argument("--deduplication-id", metavar="ID", help="of a FIFO queue's message")
    send.add_argument(
        "--attribute",
        action="append",
        type=_attribute,
        default=[],
        metavar="NAME=VALUE",
        help="a String attribute; may be repeated",
    )

    peek = command("peek", _peek, "show the next messages without receiving them")
    peek.add_argument("--dead", action="store_true", help="those of the dead-letter queue")
    peek.add_argument("--number", "-n", type=_count, default=10, metavar="N", help="at most (10)")
    peek.add_argument("--json", action="store_true", help="a JSON line for each message")

    purge = command("purge", _purge, "delete every message of a queue")
    purge.add_argument("--dead", action="store_true", help="those of the dead-letter queue")
    purge.add_argument("--yes", "-y", action="store_true", help="do not ask")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _queues(options: argparse.Namespace, place: Place) -> int:
    with place.open() as queue, place.open(dead=True) as dead:

        def look() -> str:
            rows = [_row(queue, dead), _row(dead, None)]
            return json.dumps(rows) if options.json else _table(rows)

        if options.watch:
            _watch(look, options.interval, live=sys.stdout.isatty() and not options.json)
        print(look())
    return 0


def _watch(look: Callable[[], str], interval: float, *, live: bool) -> NoReturn:
    """Show it anew until Ctrl-C, also when the server goes away and comes back; its being away is told once an
    outage, and not among what others may read."""
    told = False
    while True:
        try:
            text = look()
        except ConnectionLost as error:
            away = f"{error}; looking again until it is back, or Ctrl-C"
            if live:
                print(f"{CLEAR}{away}", flush=True)
            elif not told:
                print(away, file=sys.stderr, flush=True)
            told = True
        else:
            print(f"{CLEAR}{text}" if live else text, flush=True)
            told = False
        time.sleep(interval)


def _row(queue: Queue, dead: Queue | None) -> dict[str, Any]:
    stats = queue.stats()
    dead_letters = dead.stats() if dead else None
    return {
        "queue": queue.name,
        "ready": stats.ready,
        "in_flight": stats.in_flight,
        "delayed": stats.delayed,
        "dead": None
        if dead_letters is None
        else dead_letters.ready + dead_letters.in_flight + dead_letters.delayed,
        "oldest_age_seconds": round(stats.oldest_age_seconds, 3),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("QUEUE", "READY", "IN FLIGHT", "DELAYED", "DEAD", "OLDEST")
    lines = [head]
    for row in rows:
        counts = (row["ready"], row["in_flight"], row["delayed"])
        dead = "" if row["dead"] is None else str(row["dead"])
        age = _age(row["oldest_age_seconds"]) if any(counts) else ""
        lines.append((row["queue"], *map(str, counts), dead, age))
    first = max(len(line[0]) for line in lines)
    return "\n".join(
        line[0].ljust(first) + "".join(cell.rjust(11) for cell in line[1:]) for line in lines
    )


def _age(seconds: float) -> str:
    """For a person: `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    left = int(seconds)
    parts: list[str] = []
    for name, length in units:
        number, left = divmod(left, length)
        if number or (name == "s" and not parts):
            parts.append(f"{number} {name}")
    return " ".join(parts[:2])


def _send(options: argparse.Namespace, place: Place) -> int:
    body = options.body
    if body is None:
        body = place.example
    elif body == "-":
        body = sys.stdin.read().removesuffix("\n")
    told = (options.delay, options.group_id, options.deduplication_id)
    with place.open() as queue:
        if not options.attribute and told == (None, None, None):
            # As `redis-cli RPUSH` does, so that a bare body and an envelope mean the same here.
            if not body.lstrip().startswith('{"$message"'):
                check(Entry(body), {}, fifo=False)
            queue.client.execute("RPUSH", queue.name, body)
            print(f"sent {_shortened(body)}")
            return 0
        identifier = queue.send(
            body,
            delay=options.delay,
            attributes=dict(options.attribute) or None,
            group_id=options.group_id or ("default" if queue.fifo else None),
            deduplication_id=options.deduplication_id,
        )
    print(f"sent {_shortened(body)} as {identifier}")
    return 0


def _shortened(body: str) -> str:
    return body if len(body) <= 200 else f"{body[:200]}… ({len(body)} characters)"


def _peek(options: argparse.Namespace, place: Place) -> int:
    with place.open(dead=options.dead) as queue:
        messages = queue.peek(options.number)
        for message in messages:
            print(_as_json(message) if options.json else _as_text(message))
        if not messages and not options.json:
            print(f"{queue.name} holds nothing that could be received")
    return 0


def _as_json(message: Message) -> str:
    attributes = {
        name: {"dataType": each.data_type, "stringValue": each.string_value}
        if each.binary_value is None
        else {"dataType": each.data_type, "binaryValue": each.binary_value}
        for name, each in message.attributes.items()
    }
    return json.dumps(
        {
            "message_id": message.id,
            "sent": _iso(message.sent_timestamp),
            "receive_count": message.receive_count,
            "group_id": message.group_id,
            "attributes": attributes,
            "body": message.body,
        }
    )


def _as_text(message: Message) -> str:
    group = f"  group {message.group_id}" if message.group_id else ""
    received = f"  received {message.receive_count} times" if message.receive_count else ""
    # repr's escapes, so that no body can write to the terminal what it likes
    body = message.body if message.body.isprintable() else repr(message.body)[1:-1]
    return f"{message.id}  sent {_iso(message.sent_timestamp)}{received}{group}\n    {body}"


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _purge(options: argparse.Namespace, place: Place) -> int:
    with place.open(dead=options.dead) as queue:
        stats = queue.stats()
        number = stats.ready + stats.in_flight + stats.delayed
        if number == 0:
            print(f"{queue.name} is empty")
            return 0
        if not options.yes:
            question = f"Delete all {number} messages of {queue.name} for good? [y/N] "
            try:
                answer = input(question)
            except EOFError:
                answer = ""
                print()
            if answer.strip().lower() not in ("y", "yes"):
                print("Nothing is deleted; --yes would not ask.")
                return 1
        print(f"deleted {queue.purge()} messages of {queue.name}")
    return 0
