"""Settings, and errors that name the field."""

import copy
import json
from typing import Any

import pytest
from local_sqs import SettingsError, load_settings

GOOD: dict[str, Any] = {
    "redis": {"host": "127.0.0.1", "port": 7001},
    "queue": {
        "name": "statements",
        "visibility_timeout": 180,
        "max_receive_count": 5,
        "dead_letter_queue": "statements-dead",
    },
    "mapping": {
        "batch_size": 10,
        "batching_window": 0,
        "concurrency": 2,
        "report_batch_item_failures": True,
    },
    "function": {
        "name": "worker",
        "handler": "service.shims.worker",
        "timeout": 30,
        "memory_mb": 512,
        "environment": {"KEY": "value"},
        "preload": ["msgspec"],
    },
}


def _load(tmp_path, document):
    path = tmp_path / "settings.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_settings(path)


def test_good_settings(tmp_path):
    settings = _load(tmp_path, GOOD)
    assert settings.queue.visibility_timeout == 180
    assert settings.function.environment == {"KEY": "value"}
    assert settings.mapping.concurrency == 2


def test_aws_defaults(tmp_path):
    least = {"redis": {"port": 1}, "queue": {"name": "q"}, "function": {"handler": "a.b"}}
    settings = _load(tmp_path, least)
    assert settings.queue.visibility_timeout == 30
    assert settings.mapping.batch_size == 10
    assert settings.function.timeout == 3
    assert settings.function.memory_mb == 128


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("redis", "port", None, "redis.port: missing"),
        ("redis", "port", "7001", "redis.port: Expected `int`, got `str`"),
        ("redis", "port", 70000, "redis.port: Expected `int` <= 65535"),
        ("queue", "name", "a b", "queue.name: "),
        ("queue", "colour", 1, "queue.colour: unknown field"),
        ("queue", "visibility_timeout", 43201, "queue.visibility_timeout: "),
        ("queue", "visibility_timeout", 29, "function.timeout: 30 s is longer than"),
        ("queue", "max_receive_count", None, "queue.max_receive_count: "),
        ("queue", "dead_letter_queue", None, "queue.dead_letter_queue: "),
        ("queue", "dead_letter_queue", "statements", "queue.dead_letter_queue: "),
        ("mapping", "batch_size", 0, "mapping.batch_size: "),
        ("mapping", "batch_size", 10_001, "mapping.batch_size: "),
        ("mapping", "batch_size", 11, "mapping.batching_window: "),
        ("mapping", "batching_window", 301, "mapping.batching_window: "),
        ("mapping", "batching_window", -1, "mapping.batching_window: "),
        (
            "mapping",
            "concurrency",
            0,
            "mapping.concurrency: MaximumConcurrency is 2 to 1000, got 0",
        ),
        (
            "mapping",
            "concurrency",
            1,
            "mapping.concurrency: MaximumConcurrency is 2 to 1000, got 1",
        ),
        ("mapping", "concurrency", 1001, "mapping.concurrency: MaximumConcurrency is 2 to 1000"),
        ("mapping", "concurrency", "many", "mapping.concurrency: Expected `int`, got `str`"),
        ("function", "handler", "handler", "function.handler: "),
        ("function", "handler", None, "function.handler: missing"),
        ("function", "timeout", 0, "function.timeout: "),
        ("function", "environment", {"A": 1}, "function.environment"),
    ],
)
def test_an_error_names_file_and_field(tmp_path, section, field, value, said):
    document = copy.deepcopy(GOOD)
    if value is None:
        del document[section][field]
    else:
        document[section][field] = value
    with pytest.raises(SettingsError) as error:
        _load(tmp_path, document)
    assert f"{tmp_path / 'settings.json'}: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("scale", "window", "allowed"),
    [(1, 0.999, False), (1, 1, True), (0.1, 0.099, False), (0.1, 0.1, True)],
)
def test_a_batch_size_over_10_needs_a_window_of_a_second_before_the_times_were_shortened(
    tmp_path, scale, window, allowed
):
    document = GOOD | {"time_scale": scale}
    document["mapping"] = GOOD["mapping"] | {"batch_size": 11, "batching_window": window}
    if allowed:
        _load(tmp_path, document)
        return
    with pytest.raises(SettingsError, match=r"batching_window: .* at least 1 s, got 0\.99"):
        _load(tmp_path, document)


def test_one_environment_is_a_switch_that_no_setting_of_aws_has(tmp_path):
    document = GOOD | {"mapping": GOOD["mapping"] | {"serial": True}}
    assert _load(tmp_path, document).mapping.serial
    assert not _load(tmp_path, GOOD).mapping.serial


def test_a_file_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(SettingsError, match=r"settings\.json: not valid JSON"):
        _load(tmp_path, "{")
    with pytest.raises(SettingsError, match=r"nowhere\.json: No such file"):
        load_settings(tmp_path / "nowhere.json")
    with pytest.raises(SettingsError, match=r"settings\.json: queue: missing"):
        _load(tmp_path, {"redis": {"port": 1}, "function": {"handler": "a.b"}})
