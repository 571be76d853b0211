"""The settings of one event source mapping, from a JSON file. All times are in seconds."""

import os
import re
from typing import Annotated, Literal

import msgspec

from .event import ACCOUNT, REGION

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,80}(\.fifo)?\Z")]


class SettingsError(ValueError):
    """A setting is missing or wrong; the text names the file and the field."""


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server listens."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    host: str = "127.0.0.1"


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The queue's attributes; the mapping creates the queue with them when it starts. `fifo`: its name,
    and that of its dead-letter queue, end in `.fifo`."""

    name: _Name
    visibility_timeout: Annotated[float, msgspec.Meta(ge=0, le=43_200)] = 30.0
    max_receive_count: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    dead_letter_queue: _Name | None = None
    retention: Annotated[float, msgspec.Meta(ge=60, le=1_209_600)] = 345_600.0
    delay: Annotated[float, msgspec.Meta(ge=0, le=900)] = 0.0
    fifo: bool = False
    content_based_deduplication: bool = False


class MappingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The event source mapping. `concurrency`: most environments at once (MaximumConcurrency). `serial`:
    one environment, whatever `concurrency` says: local only, since no setting of AWS gives that."""

    batch_size: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    batching_window: Annotated[float, msgspec.Meta(ge=0, le=300)] = 0.0
    concurrency: int = 2
    serial: bool = False
    report_batch_item_failures: bool = True


class FunctionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function. `handler`: "package.module.function". `environment`: its environment variables.
    `path`: directories that come first on the function's path, such as an unpacked deployment package.
    `environments`: what runs it: processes forked from the poller, or the production runtime client
    (awslambdaric) in processes of its own. `preload`: modules that the poller imports before it forks
    environments; they are imported without the function's environment variables. `init_timeout`:
    Lambda's limit on the init phase. `reserved_concurrency`: the most environments that the function may
    have, known to Lambda but not to the mapping: batches beyond it are throttled."""

    handler: Annotated[str, msgspec.Meta(pattern=r"^[^.\s]+(\.[^.\s]+)+$")]
    name: str = "function"
    timeout: Annotated[float, msgspec.Meta(gt=0, le=900)] = 3.0
    init_timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    memory_mb: Annotated[int, msgspec.Meta(ge=128, le=10_240)] = 128
    environment: dict[str, str] = {}
    preload: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    environments: Literal["fork", "runtime"] = "fork"
    reserved_concurrency: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. `region` and `account` appear in ARNs only. `time_scale`: the factor by which the times
    were shortened, for a test; AWS's least batching window, 1 s, is shortened with them."""

    redis: RedisSettings
    queue: QueueSettings
    function: FunctionSettings
    mapping: MappingSettings = MappingSettings()
    region: str = REGION
    account: str = ACCOUNT
    time_scale: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0

    def check(self) -> None:
        """Raises SettingsError for values that are right one by one but not together."""
        queue, mapping, function = self.queue, self.mapping, self.function
        if function.timeout > queue.visibility_timeout:
            raise SettingsError(
                f"function.timeout: {function.timeout:g} s is longer than "
                f"queue.visibility_timeout, {queue.visibility_timeout:g} s (Lambda refuses that)"
            )
        if mapping.batch_size > 10 and mapping.batching_window < self.time_scale and not queue.fifo:
            raise SettingsError(
                "mapping.batching_window: a batch_size over 10 needs a window of at least 1 s, "
                f"got {mapping.batching_window / self.time_scale:g} s (Lambda refuses that)"
            )
        if not 2 <= mapping.concurrency <= 1000:
            raise SettingsError(
                f"mapping.concurrency: MaximumConcurrency is 2 to 1000, got {mapping.concurrency}"
                "; for one environment, locally only, set mapping.serial"
            )
        if (queue.max_receive_count is None) != (queue.dead_letter_queue is None):
            missing = (
                "max_receive_count" if queue.max_receive_count is None else "dead_letter_queue"
            )
            raise SettingsError(
                f"queue.{missing}: max_receive_count and dead_letter_queue need each other"
            )
        if queue.dead_letter_queue == queue.name:
            raise SettingsError("queue.dead_letter_queue: a queue cannot be its own")
        if queue.name.endswith(".fifo") != queue.fifo:
            raise SettingsError("queue.fifo: true exactly when queue.name ends in .fifo")
        if queue.dead_letter_queue and queue.dead_letter_queue.endswith(".fifo") != queue.fifo:
            raise SettingsError(
                "queue.dead_letter_queue: of a FIFO queue it is FIFO, too, and ends in .fifo"
            )
        if queue.content_based_deduplication and not queue.fifo:
            raise SettingsError("queue.content_based_deduplication: for FIFO queues only")
        if queue.fifo and mapping.batch_size > 10:
            raise SettingsError("mapping.batch_size: at most 10 for a FIFO queue")
        if queue.fifo and mapping.batching_window:
            raise SettingsError("mapping.batching_window: not for FIFO queues")


def parse_settings(text: str | bytes) -> Settings:
    """Settings from JSON text. Raises SettingsError, whose text begins with the field at fault."""
    try:
        settings = msgspec.json.decode(text, type=Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_with_field_first(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"not valid JSON: {error}") from None
    settings.check()
    return settings


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """Settings from a JSON file. Raises SettingsError, whose text names the file and the field."""
    try:
        with open(path, "rb") as file:
            return parse_settings(file.read())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _with_field_first(text: str) -> str:
    """msgspec says "what - at `$.field`"; a missing or unknown field is inside "what"."""
    what, _, where = text.partition(" - at `")
    path = where.rstrip("`").removeprefix("$").removeprefix(".")
    if named := re.search(r"(?:missing required|contains unknown) field `([^`]+)`", what):
        path = f"{path}.{named[1]}".removeprefix(".")
        what = "missing" if "missing" in what else "unknown field"
    return f"{path}: {what}" if path else what
