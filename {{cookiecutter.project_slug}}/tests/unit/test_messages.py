"""Messages are checked as they are decoded."""

import json

import pytest

from {{ cookiecutter.__package_name }}.core.errors import (
    MalformedMessage,
    UnknownMessageType,
)
from {{ cookiecutter.__package_name }}.core.messages import decode, encode

from .. import example


def test_a_message_survives_the_way_out_and_in() -> None:
    message = decode(json.dumps(example.message()))
    assert decode(encode(message)) == message


def test_different_messages_are_different_work() -> None:
    ids = {decode(json.dumps(example.message(number))).business_id for number in range(200)}
    assert len(ids) == 200


def test_a_bad_field_is_named() -> None:
    with pytest.raises(MalformedMessage, match=rf"\$\.{example.BAD_FIELD}"):
        decode(json.dumps(example.malformed()))


def test_a_line_break_at_its_end_makes_another_id_and_is_refused() -> None:
    message = example.message()
    message[example.ID_FIELD] = f"{message[example.ID_FIELD]}\n"
    with pytest.raises(MalformedMessage, match=rf"\$\.{example.ID_FIELD}"):
        decode(json.dumps(message))


def test_json_that_breaks_off_is_malformed_whatever_its_type() -> None:
    with pytest.raises(MalformedMessage, match=r"not valid JSON: .*truncated"):
        decode('{"type": "tomorrow", "a": 1')


def test_a_missing_field_is_named() -> None:
    message = example.message()
    del message[example.BAD_FIELD]
    with pytest.raises(MalformedMessage, match=f"missing required field `{example.BAD_FIELD}`"):
        decode(json.dumps(message))


def test_a_missing_type_is_named() -> None:
    message = example.message()
    del message["type"]
    with pytest.raises(MalformedMessage, match="missing required field `type`"):
        decode(json.dumps(message))


def test_an_unknown_type_is_told_from_a_malformed_message() -> None:
    with pytest.raises(UnknownMessageType, match=f"'tomorrow' is not one of: {example.TYPE}"):
        decode('{"type": "tomorrow"}')


DEEP = '{"type": "tomorrow", "x": ' + 100_000 * "["


@pytest.mark.parametrize("body", ["", "nonsense", "[]", "7", "{}", '{"type": 7}', b"\xff", DEEP])
def test_what_is_no_message_at_all_is_malformed(body: str | bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(body)
