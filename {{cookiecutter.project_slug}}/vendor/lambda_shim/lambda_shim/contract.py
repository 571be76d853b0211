"""What business logic and its shims agree on. Knows neither AWS nor Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import urandom
from time import monotonic
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

P_co = TypeVar("P_co", covariant=True)


class Retry(Exception):
    """Raised by a job: deliver this message again later.

    Args:
        reason: one sentence for the log and, once the deliveries are used up, for the record.
        after: seconds until the next delivery, 0 to 43,200 (the limit of SQS's
            ChangeMessageVisibility); None leaves it to the queue's visibility timeout.
    """

    def __init__(self, reason: str = "", after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Reject(Exception):
    """Raised by a job: never deliver this message again; it is parked with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NeedsMoreTime(Exception):
    """Raised by a job: no Lambda invocation is long enough for this message."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedMessage(ValueError):
    """Raised while decoding: no version of this service can read the message. It is parked at once."""


class UnknownMessageType(ValueError):
    """Raised while decoding: well formed, but of a type that this version does not know.

    It is delivered again, since during a canary deployment the other version may know it, and
    parked only when its deliveries are used up.
    """


class DeadlineReached(BaseException):
    """Raised *in* a job by the deadline guard shortly before Lambda would kill the function.

    A BaseException, so that a job's own ``except Exception`` does not swallow it by accident.
    """


class Ledger(Protocol):
    """Who is doing, or has done, an effect. Absorbs the repeats of at-least-once delivery."""

    def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
        """Claim an effect for ``lease`` seconds.

        Returns:
            ``("claimed", 0)``: it is the caller's to do; ``("completed", 0)``: it has been done;
            ``("held", s)``: somebody else's claim runs for another ``s`` seconds.
        """
        ...

    def complete(self, key: str, token: str) -> bool:
        """Mark the effect as done. False: the claim had run out and is somebody else's now."""
        ...

    def release(self, key: str, token: str) -> bool:
        """Give the claim back, so that the next delivery need not wait for its end."""
        ...


class BusinessMessage(Protocol):
    """What the shim must know of a message."""

    @property
    def business_id(self) -> str:
        """The same for every repeat of the same piece of work, whatever its message id.

        A redriven SQS message gets a new message id, so message ids cannot serve.
        """
        ...


class Context(msgspec.Struct, Generic[P_co], eq=False, frozen=True):
    """What a job is given beside its message. (A Struct, because one is made for every record.)

    Attributes:
        ports: the service's ways to the outside.
        ledger: for ``once``.
        message: the message at hand.
        message_id: SQS's id of this delivery's message; not stable over a redrive.
        attempt: which delivery this is, from 1 (SQS's ApproximateReceiveCount).
        deadline: when this invocation is killed, in seconds on ``time.monotonic``'s clock; None
            for no limit.
    """

    ports: P_co
    ledger: Ledger
    message: BusinessMessage
    message_id: str = "local"
    attempt: int = 1
    deadline: float | None = None

    @property
    def business_id(self) -> str:
        """The message's business id: the key for idempotency."""
        return self.message.business_id

    @property
    def remaining(self) -> float | None:
        """Seconds until this invocation is killed; None when nothing limits it."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    # Longest a claim is held where nothing limits the job: a runner without a time limit renews
    # by claiming again, and one that died is taken over after this many seconds.
    UNLIMITED_LEASE: ClassVar[float] = 900.0

    @contextmanager
    def once(self, effect: str) -> Iterator[bool]:
        """Do an effect once over all deliveries of the same piece of work.

        ::

            with context.once("mail") as first:
                if first:
                    context.ports.mailer.send(...)

        Yields True if the effect is to be done now, False if it has been done before. The claim
        lasts until this invocation ends; it is given back when the block raises. What remains is
        the window between the effect and the ledger's note of it: killed exactly there, the
        effect is repeated by the next delivery.

        Raises:
            Retry: another delivery of the same piece of work is at it; comes back after its claim.
        """
        key = f"{self.business_id}#{effect}"
        # Unique to this claim, so that a delivery whose claim has run out is fenced off. (Message id
        # and attempt would not do: a standard queue may deliver the very same message twice.)
        token = urandom(12).hex()
        remaining = self.remaining
        state, seconds = self.ledger.claim(
            key, token, self.UNLIMITED_LEASE if remaining is None else remaining
        )
        if state == "held":
            raise Retry(f"{effect} of {self.business_id} is under way elsewhere", after=seconds)
        if state == "completed":
            yield False
            return
        try:
            yield True
        except BaseException:
            self.ledger.release(key, token)
            raise
        self.ledger.complete(key, token)


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold escaped: halves of surrogate pairs, as Python has them of
    file names that are no UTF-8, and JSON as ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe(error: BaseException) -> str:
    """One line for a person: the type's name and the message."""
    try:
        text = str(error)
    except Exception:  # as Python's own tracebacks say it
        text = "<exception str() failed>"
    return encodable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def loggable(error: BaseException) -> BaseException | None:
    """The error, for the traceback of a log line; None where Lambda's runtime, which writes UTF-8,
    would raise instead of writing it."""
    import traceback

    try:
        "".join(traceback.format_exception(error)).encode()
    except UnicodeEncodeError:
        return None
    return error
