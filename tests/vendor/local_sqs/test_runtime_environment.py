"""What is the runtime environment's own; what it has in common with forked ones: test_mapping.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import local_sqs
import pytest
from local_sqs.runtime_environment import command
from local_sqs.settings import parse_settings

SETTINGS: dict[str, Any] = {
    "redis": {"port": 1},
    "queue": {"name": "work"},
    "function": {"handler": "app.handler", "environments": "runtime"},
}


def _settings(**function):
    return parse_settings(json.dumps(SETTINGS | {"function": SETTINGS["function"] | function}))


def test_a_missing_runtime_client_is_told_with_what_to_install(tmp_path):
    """An interpreter that sees local_sqs and what it needs, but no awslambdaric."""
    for module in ("hiredis", "msgspec"):
        (tmp_path / module).symlink_to(Path(str(__import__(module).__file__)).parent)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    vendor = str(Path(local_sqs.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-m", "local_sqs", str(path)],
        env={
            "PYTHONPATH": os.pathsep.join([vendor, str(tmp_path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "needs the package awslambdaric" in done.stderr
    assert "uv add --dev awslambdaric" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_runs_as_on_lambda():
    assert command(_settings(), 7, kernel_watches=True)[1:] == ["-m", "awslambdaric", "app.handler"]


def test_with_a_path_of_its_own_the_working_directory_is_not_on_it():
    assert command(_settings(path=["/opt/package"]), 7)[1] == "-P"


def test_without_help_from_the_kernel_the_process_watches_its_lifeline(tmp_path):
    """As on macOS: the end of the poller, which holds the pipe, ends a runtime that hangs."""
    (tmp_path / "app.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    reader, writer = os.pipe()
    process = subprocess.Popen(
        command(_settings(), reader, kernel_watches=False),
        env={"PYTHONPATH": str(tmp_path), "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:1"},
        stdout=subprocess.PIPE,
        pass_fds=[reader],
        start_new_session=True,
    )
    try:
        os.close(reader)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert process.poll() is None
        os.close(writer)
        assert process.wait(10) == -9
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("function", "environments", "docker", "function.environments: "),
        ("function", "reserved_concurrency", -1, "function.reserved_concurrency: "),
        ("function", "path", "/opt", "function.path: "),
        ("queue", "fifo", True, "queue.fifo: true exactly when"),
        ("queue", "name", "work.fifo", "queue.fifo: true exactly when"),
        ("queue", "content_based_deduplication", True, "queue.content_based_deduplication: "),
    ],
)
def test_settings_that_are_refused(section, field, value, said):
    document = SETTINGS | {section: SETTINGS[section] | {field: value}}
    with pytest.raises(local_sqs.SettingsError, match=said):
        parse_settings(json.dumps(document))


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"batch_size": 11, "batching_window": 1}, "mapping.batch_size: at most 10 for a FIFO"),
        ({"batching_window": 1}, "mapping.batching_window: not for FIFO"),
    ],
)
def test_what_a_fifo_queue_does_not_allow(mapping, said):
    document = SETTINGS | {"queue": {"name": "work.fifo", "fifo": True}, "mapping": mapping}
    with pytest.raises(local_sqs.SettingsError, match=said):
        parse_settings(json.dumps(document))


def test_the_dead_letter_queue_of_a_fifo_queue_is_fifo():
    queue = {"name": "work.fifo", "fifo": True, "max_receive_count": 2, "dead_letter_queue": "dead"}
    with pytest.raises(local_sqs.SettingsError, match=r"queue\.dead_letter_queue"):
        parse_settings(json.dumps(SETTINGS | {"queue": queue}))
