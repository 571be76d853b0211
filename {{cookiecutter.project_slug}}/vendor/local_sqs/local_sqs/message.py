"""What a queue gives and takes."""

import os
from collections.abc import Mapping, Sequence

import msgspec


class MessageAttribute(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A message attribute as SQS knows it: `data_type` is String, Number or Binary, with an optional
    suffix after a dot; a Binary attribute's value is `binary_value`, in base64."""

    data_type: str
    string_value: str | None = None
    binary_value: str | None = None


class Message(msgspec.Struct, frozen=True):
    """A message as received. Times are milliseconds since the epoch."""

    id: str
    receipt: str  # the receipt handle; empty unless received
    body: str
    sent_timestamp: int
    first_receive_timestamp: int
    receive_count: int
    attributes: dict[str, MessageAttribute]
    group_id: str | None
    deduplication_id: str | None
    dead_letter_source: str | None
    sequence_number: str | None = None  # of a FIFO queue, 20 digits
    trace_header: str | None = None


class Entry(msgspec.Struct, frozen=True):
    """A message to send. `delay`: seconds, None for the queue's own. `attributes`: plain strings become
    String attributes. A FIFO queue needs `group_id`, and `deduplication_id` unless it deduplicates by
    content; a standard queue carries a `group_id` along and refuses a `deduplication_id`. `trace_header`:
    an X-Ray header, the message system attribute AWSTraceHeader; it does not count as size."""

    body: str
    delay: float | None = None
    attributes: Mapping[str, str | MessageAttribute] | None = None
    group_id: str | None = None
    deduplication_id: str | None = None
    trace_header: str | None = None


class Failed(msgspec.Struct, frozen=True):
    """An entry of a batch that was refused: its place in the batch, SQS's error code, and why."""

    index: int
    code: str
    message: str


class Stats(msgspec.Struct, frozen=True):
    """How many messages may be received now, are in flight, are delayed; age in seconds of the oldest."""

    ready: int
    in_flight: int
    delayed: int
    oldest_age_seconds: float


class Details(msgspec.Struct, omit_defaults=True):
    """What few messages have, as it travels to and from Redis (`<name>:details` in `lua/queue.lua`)."""

    attributes: dict[str, MessageAttribute] = {}
    group_id: str | None = None
    deduplication_id: str | None = None
    dead_letter_source: str | None = None
    trace_header: str | None = None


class _Rest(msgspec.Struct):
    """Details without the attributes."""

    group_id: str | None = None
    deduplication_id: str | None = None
    dead_letter_source: str | None = None
    trace_header: str | None = None


_decode_details = msgspec.json.Decoder(Details).decode
_NO_DETAILS = Details()

ID_BYTES = 16  # of randomness for an id


def id_from(digits: str) -> str:
    """A UUID, version 4, from 32 random hexadecimal digits."""
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def new_id() -> str:
    """A random UUID, version 4."""
    return id_from(os.urandom(ID_BYTES).hex())


def new_ids(number: int) -> list[str]:
    """Random UUIDs, for one system call."""
    digits = os.urandom(ID_BYTES * number).hex()
    return [id_from(digits[at : at + 32]) for at in range(0, 32 * number, 32)]


def _details(packed: bytes) -> Details:
    """Details as stored. Anybody may write to Redis, and a single message must not stop the queue: attributes
    that are none are left out, and so is everything when the text is no details at all."""
    text = packed.decode("utf-8", "replace")
    try:
        known = _decode_details(text)
        for attribute in known.attributes.values():
            if attribute.binary_value is not None:
                from binascii import a2b_base64

                a2b_base64(attribute.binary_value, strict_mode=True)
    except (ValueError, RecursionError):  # of msgspec and binascii: ValueErrors
        try:
            rest = msgspec.json.decode(text, type=_Rest)
        except (ValueError, RecursionError):
            return _NO_DETAILS
        return Details(
            {}, rest.group_id, rest.deduplication_id, rest.dead_letter_source, rest.trace_header
        )
    return known


def from_reply(
    marks: Sequence[bytes],
    bodies: Sequence[bytes],
    details: Sequence[bytes | None],
    numbers: Sequence[bytes] = (),
    *,
    peeked: bool = False,
) -> list[Message]:
    """The messages that RECEIVE and PEEK answer with (`lua/receive.lua`, `lua/queue.lua`); `numbers`: the
    sequence numbers of a FIFO queue; `peeked`: they were only looked at, and have no receipt handle.

    A body that is not UTF-8 (anybody may push bytes) shows the offending bytes as `\\xNN`: it reaches
    the handler, which can park it, rather than stopping the queue.
    """
    messages = []
    for index, body in enumerate(bodies):
        id_ = marks[2 * index].decode()
        enqueued, *received = marks[2 * index + 1].decode().split(" ")
        count, first, seed = received or ("0", "0", "")
        packed = details[index] if details else None
        known = _details(packed) if packed else _NO_DETAILS
        messages.append(
            Message(
                id_,
                "" if peeked else f"{id_}.{seed}",
                body.decode("utf-8", "backslashreplace"),
                int(enqueued),
                int(first),
                int(count),
                known.attributes,
                known.group_id,
                known.deduplication_id,
                known.dead_letter_source,
                numbers[index].decode() if numbers else None,
                known.trace_header,
            )
        )
    return messages
