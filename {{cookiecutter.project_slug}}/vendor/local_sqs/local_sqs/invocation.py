"""One invocation of a function and its outcome, and how both travel between poller and environment."""

import struct
import time

import msgspec

INIT_DONE = b"I"
INIT_FAILED = b"F"
RESPONSE = b"R"
ERROR = b"E"

MAXIMUM_RESPONSE_BYTES = 6 * 1024 * 1024 + 100
"""What a function may answer (Lambda quotas: 6 MB, synchronous; its own message says 6291556)."""

_FRAME = struct.Struct("!cI")
_INVOCATION = struct.Struct("!d36s")


class Invocation(msgspec.Struct, frozen=True):
    """`deadline`: on the clock of `time.monotonic`, which all processes of a machine share; None in
    debug mode. `payload`: the event as JSON."""

    request_id: str
    deadline: float | None
    payload: bytes


class Outcome(msgspec.Struct, frozen=True):
    """`kind`: one of the constants above. `payload`: the response as JSON; of a failure, Lambda's error
    object (errorMessage, errorType, stackTrace)."""

    kind: bytes
    payload: bytes


class FunctionError(msgspec.Struct, rename="camel", frozen=True):
    """What Lambda reports of a failed invocation or init."""

    error_message: str = ""
    error_type: str = ""
    stack_trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        trace = "".join(self.stack_trace).rstrip()
        return f"[ERROR] {self.error_type}: {self.error_message}" + (trace and f"\n{trace}")


def response_too_large(size: int) -> Outcome:
    """What a response of `size` bytes comes to, in Lambda's words."""
    text = (
        f"Response payload size ({size} bytes) exceeded maximum allowed payload size "
        f"({MAXIMUM_RESPONSE_BYTES} bytes)."
    )
    return Outcome(ERROR, msgspec.json.encode(FunctionError(text, "Function.ResponseSizeTooLarge")))


def describe(payload: bytes) -> FunctionError:
    return msgspec.json.decode(payload, type=FunctionError)


def frame(kind: bytes, payload: bytes) -> bytes:
    return _FRAME.pack(kind, len(payload)) + payload


def frame_invocation(invocation: Invocation) -> bytes:
    head = _INVOCATION.pack(invocation.deadline or 0.0, invocation.request_id.encode())
    return frame(RESPONSE, head + invocation.payload)


def unframe_invocation(payload: bytes) -> Invocation:
    deadline, request_id = _INVOCATION.unpack_from(payload)
    return Invocation(request_id.decode(), deadline or None, payload[_INVOCATION.size :])


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Outcome | None:
        """The next whole frame, or None."""
        if len(self._buffer) < _FRAME.size:
            return None
        kind, length = _FRAME.unpack_from(self._buffer)
        end = _FRAME.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_FRAME.size : end])
        del self._buffer[:end]
        return Outcome(kind, payload)


def remaining_milliseconds(deadline: float) -> int:
    """Time left until a deadline, as Lambda's context gives it."""
    return max(0, int((deadline - time.monotonic()) * 1000))
