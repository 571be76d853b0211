"""What a job may raise beside its own exceptions, which mean: try again."""

from lambda_shim.contract import (
    MalformedMessage,
    NeedsMoreTime,
    Reject,
    Retry,
    UnknownMessageType,
)

__all__ = ["MalformedMessage", "NeedsMoreTime", "Reject", "Retry", "UnknownMessageType"]
