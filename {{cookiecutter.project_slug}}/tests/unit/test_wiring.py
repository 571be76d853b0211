"""Settings choose adapters; bad settings say which."""

from pathlib import Path

import msgspec
import pytest

from {{ cookiecutter.__package_name }}.adapters.documents import open_documents
from {{ cookiecutter.__package_name }}.adapters.wiring import (
    SettingsError,
    Wiring,
    load_settings,
)
from {{ cookiecutter.__package_name }}.core.settings import Settings

ON_AWS = {
    "QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/000000000000/work",
    "RECORDS_URL": "s3://records/",
    "LEDGER_URL": "dynamodb://ledger",
    "DOCUMENTS_URL": "s3://documents/",
    "MAX_RECEIVE_COUNT": "5",
    "CUSTOMERS_URL": "https://customers.example.com",
    "CUSTOMERS_TOKEN_URL": "ssm:///service/dev/customers-token",
    "MAIL_URL": "ses://",
    "MAIL_FROM": "service@example.com",
}


def test_everything_opens_from_the_environment_of_a_deployment() -> None:
    wiring = Wiring(load_settings({**ON_AWS, "PATH": "/bin"}))
    opened = [type(x).__name__ for x in (wiring.queue, wiring.ledger, wiring.records)]
    assert opened == ["SqsQueue", "DynamoDbLedger", "S3Store"]
    assert wiring.max_receive_count == 5


REQUIRED = [field.encode_name for field in msgspec.structs.fields(Settings) if field.required]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_setting_is_named(name: str) -> None:
    environment = {key: value for key, value in ON_AWS.items() if key != name}
    with pytest.raises(SettingsError, match=f"missing required field `{name}`"):
        load_settings(environment)


def test_a_bad_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="MAX_RECEIVE_COUNT"):
        load_settings({**ON_AWS, "MAX_RECEIVE_COUNT": "many"})


def test_overflow_is_on_where_there_is_a_failure_queue() -> None:
    assert Wiring(load_settings(ON_AWS)).failure_queue is None
    assert Wiring(load_settings({**ON_AWS, "FAILURE_QUEUE_URL": ""})).failure_queue is None
    url = "https://sqs.eu-central-1.amazonaws.com/000000000000/dead"
    wiring = Wiring(load_settings({**ON_AWS, "FAILURE_QUEUE_URL": url}))
    assert type(wiring.failure_queue).__name__ == "SqsQueue"


@pytest.mark.parametrize("name", ["queue", "failure_queue", "ledger", "records"])
def test_a_scheme_without_an_adapter_is_named(name: str) -> None:
    wiring = Wiring(load_settings({**ON_AWS, f"{name.upper()}_URL": "ftp://somewhere"}))
    with pytest.raises(SettingsError, match=f"{name.upper()}_URL: no adapter for ftp://"):
        getattr(wiring, name)


def test_documents_are_replaced_whole(tmp_path: Path) -> None:
    documents = open_documents(f"file://{tmp_path}")
    documents.put("2026/a.pdf", b"one")
    documents.put("2026/a.pdf", b"two")
    assert [path.name for path in (tmp_path / "2026").iterdir()] == ["a.pdf"]
    assert (tmp_path / "2026" / "a.pdf").read_bytes() == b"two"
    with pytest.raises(ValueError, match="DOCUMENTS_URL: no adapter for ftp://"):
        open_documents("ftp://somewhere")
