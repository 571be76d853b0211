"""Settings in, adapters out: the scheme of each URL says which adapter to open.

Everything here is opened when first used, so that a cold start pays for nothing it does not need.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import msgspec

from ..core.settings import Settings
from .ports import AdapterPorts

if TYPE_CHECKING:
    from lambda_shim.batch import Visibility
    from lambda_shim.contract import Ledger
    from lambda_shim.fan_out import Outbox
    from lambda_shim.records import RecordStore

    class Queue(Visibility, Outbox, Protocol):
        """The work queue, from both ends."""


class SettingsError(ValueError):
    """The environment lacks a setting or has a bad one; the message names it."""


def load_settings(environ: Mapping[str, str]) -> Settings:
    """The typed settings out of environment variables. Raises SettingsError naming the variable."""
    try:
        return msgspec.convert(dict(environ), Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"environment variables: {error}") from None


def split(url: str) -> tuple[str, str]:
    """``s3://bucket/prefix`` → ``("s3", "bucket/prefix")``."""
    scheme, _, rest = url.partition("://")
    return scheme, rest


def open_queue(name: str, url: str) -> "Queue":
    """The queue with this URL. Raises SettingsError, which names the setting."""
    match split(url):
        case "https", _:
            from lambda_shim.sqs import SqsQueue

            return SqsQueue(url)
        case "redis", _:
            from .redis_queue import RedisQueue

            return RedisQueue(url)
        case scheme, _:
            raise SettingsError(f"{name}: no adapter for {scheme}://; use https or redis")


class Wiring:
    """What ``lambda_shim.batch`` and ``fan_out`` ask a service for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ports = AdapterPorts(settings)
        self.max_receive_count = settings.max_receive_count

    @cached_property
    def queue(self) -> "Queue":
        return open_queue("QUEUE_URL", self.settings.queue_url)

    @cached_property
    def failure_queue(self) -> "Queue | None":
        """Where what needs more time is announced; None: it is parked."""
        url = self.settings.failure_queue_url
        return open_queue("FAILURE_QUEUE_URL", url) if url else None

    @cached_property
    def ledger(self) -> "Ledger":
        match split(self.settings.ledger_url):
            case "dynamodb", table:
                from lambda_shim.dynamodb_ledger import DynamoDbLedger

                return DynamoDbLedger(table)
            case "redis", _:
                from local_sqs.ledger import RedisLedger

                return RedisLedger.open(self.settings.ledger_url)
            case scheme, _:
                raise SettingsError(
                    f"LEDGER_URL: no adapter for {scheme}://; use dynamodb or redis"
                )

    @cached_property
    def records(self) -> "RecordStore":
        match split(self.settings.records_url):
            case "s3", place:
                from lambda_shim.records import S3Store

                bucket, _, prefix = place.partition("/")
                return S3Store(bucket, prefix)
            case "file", directory:
                from lambda_shim.records import DirectoryStore

                return DirectoryStore(directory)
            case scheme, _:
                raise SettingsError(f"RECORDS_URL: no adapter for {scheme}://; use s3 or file")
