"""Decoding of tagged msgspec messages, with the two ways in which it can fail kept apart."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args

import msgspec

from lambda_shim.contract import MalformedMessage, UnknownMessageType

T = TypeVar("T")


class _Tag(msgspec.Struct):
    type: str


class _Nothing(msgspec.Struct, tag_field="type", tag="\0"):
    """A second type for every union: msgspec asks for no tag where there is but one type. No
    message is of this one, since no number satisfies its field."""

    never: Annotated[int, msgspec.Meta(gt=0, lt=0)]


def decoder(message: type[T]) -> Callable[[bytes | str], T]:
    """A function that decodes JSON to this message type.

    Args:
        message: a msgspec Struct with ``tag_field="type"``, or a union of such Structs.

    The returned function raises:
        UnknownMessageType: a JSON object whose ``type`` is none of the union's.
        MalformedMessage: anything else that is no message; the error names the field.
    """
    structs: tuple[Any, ...] = get_args(message) or (message,)
    tags = frozenset(struct.__struct_config__.tag for struct in structs)
    decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(message | _Nothing)
    decode = decoder.decode

    def explain(body: bytes | str, error: Exception) -> ValueError:
        try:
            tag = msgspec.json.decode(body, type=_Tag).type
        except msgspec.ValidationError:
            return MalformedMessage(str(error))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as broken:
            return MalformedMessage(f"not valid JSON: {broken}")  # whatever the type says
        if tag in tags:
            return MalformedMessage(str(error))
        return UnknownMessageType(f"type {tag!r} is not one of: {', '.join(sorted(tags))}")

    def checked(body: bytes | str) -> T:
        try:
            return decode(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise explain(body, error) from None

    return checked


def encode(message: object) -> str:
    """The JSON that the decoder reads."""
    return msgspec.json.encode(message).decode()
