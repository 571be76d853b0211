"""SQS's limits on a message, as the service enforces them.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

from .message import Entry, MessageAttribute

MAXIMUM_MESSAGE_BYTES = 1024 * 1024
MAXIMUM_BATCH_ENTRIES = 10
MAXIMUM_ATTRIBUTES = 10
MAXIMUM_DELAY_SECONDS = 900.0
MAXIMUM_VISIBILITY_SECONDS = 43_200.0


class Refused(ValueError):
    """SQS would refuse this. `code` is SQS's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def attributes_of(entry: Entry) -> dict[str, MessageAttribute]:
    if not entry.attributes:
        return {}
    return {
        name: value if isinstance(value, MessageAttribute) else MessageAttribute("String", value)
        for name, value in entry.attributes.items()
    }


def size(entry: Entry, attributes: dict[str, MessageAttribute]) -> int:
    """Bytes that count against the limits: the body, and names, types and values of attributes."""
    body = entry.body
    total = len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass"))
    for name, attribute in attributes.items():
        total += len(name.encode()) + len(attribute.data_type.encode())
        if binary := attribute.binary_value:
            total += len(binary) * 3 // 4 - binary.count("=", -2)
        total += len((attribute.string_value or "").encode())
    return total


def check(entry: Entry, attributes: dict[str, MessageAttribute], *, fifo: bool) -> int:
    """The message's size in bytes. Raises Refused where SendMessage would answer with an error."""
    if not entry.body:
        raise Refused("MissingParameter", "the body is empty")
    if not entry.body.isprintable() and any(map(_forbidden, entry.body)):
        raise Refused("InvalidMessageContents", "the body has a character outside XML 1.0's set")
    if entry.delay is not None and not 0 <= entry.delay <= MAXIMUM_DELAY_SECONDS:
        raise Refused("InvalidParameterValue", f"delay must be 0-900 seconds, got {entry.delay}")
    if fifo or entry.group_id is not None or entry.deduplication_id is not None:
        _check_fifo(entry, fifo)
    if entry.trace_header is not None and not is_trace_header(entry.trace_header):
        raise Refused(
            "InvalidParameterValue", f"AWSTraceHeader: no X-Ray header: {entry.trace_header!r}"
        )
    if len(attributes) > MAXIMUM_ATTRIBUTES:
        raise Refused("InvalidParameterValue", f"{len(attributes)} attributes; 10 at most")
    for name, attribute in attributes.items():
        _check_attribute(name, attribute)
    bytes_ = size(entry, attributes)
    if bytes_ > MAXIMUM_MESSAGE_BYTES:
        raise Refused("InvalidParameterValue", f"message of {bytes_} bytes; 1,048,576 at most")
    return bytes_


def is_trace_header(text: str) -> bool:
    """Whether an X-Ray header begins as it must: `Root=1-<8 hexadecimal digits>-<24>`, then more fields or
    nothing (https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html)."""
    root, *fields = text.split(";")
    one, moment, rest = (*root.removeprefix("Root=").split("-"), "", "")[:3]
    hexadecimal = {*"0123456789abcdefABCDEF"}.issuperset(moment + rest)
    lengths = (len(moment), len(rest), len(root))
    well_formed = all("=" in field and field.isprintable() for field in fields if field)
    return one == "1" and lengths == (8, 24, 40) and hexadecimal and well_formed and text.isascii()


def is_fifo(name: str) -> bool:
    """Whether a queue of this name is FIFO: SQS has no FIFO queue without the suffix, nor the reverse."""
    return name.endswith(".fifo")


def _check_fifo(entry: Entry, fifo: bool) -> None:
    if fifo and entry.group_id is None:
        raise Refused("MissingParameter", "a FIFO queue needs MessageGroupId")
    if fifo and entry.delay:
        raise Refused("InvalidParameterValue", "a FIFO queue knows no delay of a single message")
    if not fifo and entry.deduplication_id is not None:
        raise Refused("InvalidParameterValue", "only a FIFO queue knows MessageDeduplicationId")
    for name, value in (
        ("MessageGroupId", entry.group_id),
        ("MessageDeduplicationId", entry.deduplication_id),
    ):
        if value is not None and not (
            0 < len(value) <= 128 and all("!" <= c <= "~" for c in value)
        ):
            raise Refused(
                "InvalidParameterValue",
                f"{name} must be 1-128 ASCII letters, digits and punctuation, got {value!r}",
            )


def _check_attribute(name: str, attribute: MessageAttribute) -> None:
    well_formed = (
        0 < len(name) <= 256
        and name.isascii()
        and all(character.isalnum() or character in "_-." for character in name)
        and not (name.startswith(".") or name.endswith(".") or ".." in name)
        and not name.lower().startswith(("aws.", "amazon."))
    )
    if not well_formed:
        raise Refused(
            "InvalidParameterValue",
            f"attribute {name!r}: a name has 1-256 letters, digits, _, - and single inner periods, "
            "and does not begin with AWS. or Amazon.",
        )
    if len(attribute.data_type) > 256:
        raise Refused("InvalidParameterValue", f"attribute {name!r}: type longer than 256")
    base = attribute.data_type.partition(".")[0]
    if base not in ("String", "Number", "Binary"):
        raise Refused(
            "InvalidParameterValue",
            f"attribute {name!r}: type must be String, Number or Binary, got {attribute.data_type!r}",
        )
    value, other = attribute.string_value, attribute.binary_value
    if base == "Binary":
        value, other = other, value
    if not value:
        raise Refused("InvalidParameterValue", f"attribute {name!r} ({base}) has no value")
    if other is not None:
        raise Refused("InvalidParameterValue", f"attribute {name!r} ({base}) has two values")
    if base != "Binary" and any(map(_forbidden, attribute.string_value or "")):
        raise Refused(
            "InvalidMessageContents",
            f"attribute {name!r} has a character outside XML 1.0's set",
        )
    if base == "Number" and not _is_number(attribute.string_value or ""):
        raise Refused(
            "InvalidParameterValue",
            f"attribute {name!r}: not a number of at most 38 digits: {attribute.string_value!r}",
        )
    if base == "Binary":
        from binascii import Error, a2b_base64

        try:
            a2b_base64(attribute.binary_value or "", strict_mode=True)
        except Error as error:
            raise Refused("InvalidParameterValue", f"attribute {name!r}: {error}") from error


def _is_number(text: str) -> bool:
    """SQS: up to 38 digits of precision, between -10^128 and 10^126."""
    try:
        value = float(text)
    except ValueError:
        return False
    digits = text.lower().partition("e")[0].lstrip("+-").replace(".", "").strip("0")
    return len(digits) <= 38 and digits.isdigit() | (not digits) and -1e128 <= value <= 1e126


def _forbidden(character: str) -> bool:
    return (
        (character < " " and character not in "\t\n\r")
        or "\ud800" <= character <= "\udfff"
        or character in "\ufffe\uffff"
    )
