"""What a queue gives and takes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

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


class Entry(msgspec.Struct, frozen=True):
    """A message to send. `delay`: seconds, None for the queue's own. `attributes`: plain strings become
    String attributes. `group_id` and `deduplication_id` are carried with the message."""

    body: str
    delay: float | None = None
    attributes: Mapping[str, str | MessageAttribute] | None = None
    group_id: str | None = None
    deduplication_id: str | None = None


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


_decode_attributes = msgspec.json.Decoder(dict[str, MessageAttribute]).decode


def new_id() -> str:
    """A random UUID, version 4."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def from_reply(fields: Sequence[Any], seed: str) -> Message:
    """A message from the fields in which `receive.lua` and `peek.lua` answer; `seed`: of the RECEIVE,
    empty for a message that was only looked at.

    A body that is not UTF-8 (anybody may push bytes) shows the offending bytes as `\\xNN`: it reaches
    the handler, which can park it, rather than stopping the queue.
    """
    body, sent, count, first, attributes, group, deduplication, source, identifier = fields
    id_ = identifier.decode()
    return Message(
        id_,
        f"{id_}.{seed}" if seed else "",
        body.decode("utf-8", "backslashreplace"),
        int(sent),
        int(first or 0),
        int(count or 0),
        _decode_attributes(attributes.decode("utf-8", "replace")) if attributes else {},
        _text(group),
        _text(deduplication),
        _text(source),
    )
