"""Other services' dead letters: the registry, and running their functions."""

import functools
import http.server
import io
import json
import logging
import os
import platform
import signal
import stat
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from lambda_shim.archives import BadArchive, unpack
from lambda_shim.dead_letters import Filter, run_again
from lambda_shim.dispatcher import Dispatcher
from lambda_shim.ecs import task_settings
from lambda_shim.foreign import ARCHITECTURES, download, functions, redact
from lambda_shim.records import PARKED, WAITING, DeadLetterRecord, Records
from lambda_shim.registry import Function, Registry, load
from lambda_shim.runner import Runner, RunnerSettings

from .overflow import SOURCE, FakeLauncher, dead_message
from .stores import MemoryObjects, dead_letter

FUNCTION = "arn:aws:lambda:eu-central-1:000000000000:function:billing"
QUEUE = "arn:aws:sqs:eu-central-1:000000000000:bills"
TOPIC = "arn:aws:sns:eu-central-1:000000000000:bills"
BUCKET = "arn:aws:s3:::scans"
RULE = "arn:aws:events:eu-central-1:000000000000:rule/nightly"
RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
HERE = ARCHITECTURES[platform.machine().lower()]


def registry() -> Registry:
    billing = Function(
        function=f"{FUNCTION}:live",
        pool="billing",
        task_definition="billing-overflow",
        role="arn:aws:iam::000000000000:role/billing",
        sources=(QUEUE, TOPIC, BUCKET, RULE),
    )
    return Registry((SOURCE,), (billing,))


def direct(body: Any, attributes: dict[str, str] | None = None) -> dict[str, Any]:
    """A message that was sent to the failure queue, not redriven by SQS."""
    message = dead_message("m1", body if isinstance(body, str) else json.dumps(body))
    del message["attributes"]["DeadLetterQueueSourceArn"]
    message["messageAttributes"] = {
        name: {"stringValue": value, "dataType": "String"}
        for name, value in (attributes or {}).items()
    }
    return message


def redriven(queue: str, body: str = "{}") -> dict[str, Any]:
    message = dead_message("m1", body)
    message["attributes"]["DeadLetterQueueSourceArn"] = queue
    return message


S3_EVENT = {"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"arn": BUCKET}}}]}
SNS_EVENT = {"Records": [{"EventSource": "aws:sns", "Sns": {"TopicArn": TOPIC, "Message": "x"}}]}
TICK = {"detail-type": "Scheduled Event", "resources": [RULE], "detail": {}}
NOTE = {"Type": "Notification", "TopicArn": TOPIC, "Message": "x"}
CODES = {"RequestID": "r", "ErrorCode": "200", "ErrorMessage": "boom"}

WAYS: dict[str, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    "a queue's redrive": (
        redriven(QUEUE, "body"),
        lambda e: (
            e["Records"][0]["body"] == "body"
            and e["Records"][0]["eventSourceARN"] == QUEUE
            and e["Records"][0]["awsRegion"] == "eu-central-1"
        ),
    ),
    "an on-failure destination": (
        direct(
            {
                "version": "1.0",
                "requestContext": {"functionArn": f"{FUNCTION}:$LATEST"},
                "requestPayload": {"bill": 7},
            }
        ),
        lambda e: e == {"bill": 7},
    ),
    "DeadLetterConfig, S3": (direct(S3_EVENT, CODES), lambda e: e == S3_EVENT),
    "DeadLetterConfig, SNS": (direct(SNS_EVENT, CODES), lambda e: e == SNS_EVENT),
    "DeadLetterConfig, schedule": (direct(TICK, CODES), lambda e: e == TICK),
    "a rule": (direct({"detail": 1}, {"RULE_ARN": RULE}), lambda e: e == {"detail": 1}),
    "a rule's target": (
        direct({"detail": 1}, {"TARGET_ARN": FUNCTION, "RULE_ARN": "other"}),
        lambda e: e == {"detail": 1},
    ),
    "a subscription": (direct(NOTE), lambda e: e["Records"][0]["Sns"] == NOTE),
}

STRANGERS = {
    "another queue": redriven("arn:aws:sqs:eu-central-1:000000000000:other"),
    "another function": direct(
        {"requestContext": {"functionArn": f"{FUNCTION}-2"}, "requestPayload": {}}
    ),
    "no source": direct({"customer": 7}, CODES),
    "no JSON": direct("}{"),
    "a list": direct([1]),
    "records that are none": direct({"Records": ["x"]}),
    "a context that is none": direct({"requestContext": None, "requestPayload": 1}),
    "an attribute alone": direct({"x": 1}, {"RULE_ARN": f"{RULE}-2"}),
}


def dispatched(message: dict[str, Any]) -> DeadLetterRecord:
    records = Records(MemoryObjects())
    launcher = FakeLauncher()
    Dispatcher(records, launcher, sources=registry())({"Records": [message]})
    record = records.get("m1")
    assert record is not None
    assert [each.pool for each in launcher.launches] == (
        [record.pool] if record.state == WAITING else []
    )
    return record


@pytest.mark.parametrize("way", WAYS)
def test_a_registered_source_names_the_function_and_its_event(way: str) -> None:
    message, right = WAYS[way]
    record = dispatched(message)
    assert (record.state, record.pool) == (WAITING, "billing")
    target = registry().target(record)
    assert target is not None
    assert target.function.function == f"{FUNCTION}:live"
    assert right(target.event)


@pytest.mark.parametrize("way", STRANGERS)
def test_what_is_not_registered_is_parked_and_never_runs(way: str) -> None:
    record = dispatched(STRANGERS[way])
    assert (record.state, record.reason) == (PARKED, "not_registered")
    assert record.body == STRANGERS[way]["body"]


@pytest.mark.parametrize("tasks", [True, False], ids=["tasks", "no tasks"])
@pytest.mark.parametrize("way", STRANGERS)
def test_what_is_not_registered_does_not_run_either_when_it_is_handed_to_the_runner(
    way: str, tasks: bool
) -> None:
    records, launcher = Records(MemoryObjects()), FakeLauncher()
    dispatcher = Dispatcher(records, launcher if tasks else None, sources=registry())
    dispatcher({"Records": [STRANGERS[way]]})
    assert run_again(records, Filter(), None).done == ["m1"]
    dispatcher({})
    assert launcher.launches == []
    (record,) = records.list()
    assert (record.state, record.reason) == (PARKED, "not_registered")
    story = ["dead_lettered", "parked", "waiting", "parked"]
    assert [event.event for event in record.history] == story


def test_what_has_been_registered_since_runs_when_it_is_handed_to_the_runner() -> None:
    records, launcher = Records(MemoryObjects()), FakeLauncher()
    message = direct({"requestContext": {"functionArn": FUNCTION}, "requestPayload": {}})
    Dispatcher(records, launcher, sources=Registry((SOURCE,), ()))({"Records": [message]})
    run_again(records, Filter(), None)
    Dispatcher(records, launcher, sources=registry())({})
    assert [launch.pool for launch in launcher.launches] == ["billing"]


def test_a_function_that_keeps_failing_keeps_nobody_else_from_running() -> None:
    records, launcher = Records(MemoryObjects()), FakeLauncher()
    dispatcher = Dispatcher(records, launcher, sources=registry())
    for _ in range(dispatcher.limits.failures):
        dispatcher.budget.ran("x.1", "KeyError: …", "billing")
    theirs = direct({"requestContext": {"functionArn": FUNCTION}, "requestPayload": {}})
    dispatcher({"Records": [theirs, dead_message("own")]})
    assert [launch.key for launch in launcher.launches] == ["own"]
    assert [(r.key, r.state, r.reason) for r in records] == [
        ("m1", PARKED, "circuit_open"),
        ("own", WAITING, "dead_lettered"),
    ]


def from_destination(condition: str | None = "RetriesExhausted", **response: Any) -> dict[str, Any]:
    request = {"functionArn": FUNCTION, "condition": condition}
    return direct({"requestContext": request, "requestPayload": {}, "responsePayload": response})


UNTOLD = "its function failed or was not called; the dead letter does not tell why"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (from_destination(errorType="KeyError", errorMessage="'iban'"), "KeyError: 'iban'"),
        (
            from_destination(errorMessage="Task timed out after 3.00 s"),
            "Task timed out after 3.00 s",
        ),
        (from_destination("EventAgeExceeded"), "EventAgeExceeded"),
        (from_destination(None, errorMessage=7), UNTOLD),
        (direct(S3_EVENT, CODES), "boom"),
        (
            direct(
                {}, {"RULE_ARN": RULE, "ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "may not"}
            ),
            "NO_PERMISSIONS: may not",
        ),
        (direct(NOTE), UNTOLD),
        (redriven(QUEUE), UNTOLD),
    ],
)
def test_what_a_dead_letter_says_of_the_failure_is_the_records_error(
    message: dict[str, Any], error: str
) -> None:
    record = dispatched(message)
    assert (record.state, record.error) == (WAITING, error)


def test_what_is_not_registered_keeps_what_was_said_of_the_failure() -> None:
    request = {"functionArn": f"{FUNCTION}-2"}
    response = {"errorType": "KeyError", "errorMessage": "'iban'"}
    body = {"requestContext": request, "requestPayload": {}, "responsePayload": response}
    record = dispatched(direct(body))
    assert (record.state, record.reason) == (PARKED, "not_registered")
    assert record.history[0].detail == "KeyError: 'iban'"


def test_the_services_own_messages_stay_its_own() -> None:
    record = dispatched(dead_message("m1"))
    assert (record.state, record.pool) == (WAITING, "own")


def test_a_function_that_is_a_source_may_be_named_with_its_alias() -> None:
    one = Function(function=FUNCTION, pool="billing", role="r", sources=(f"{FUNCTION}-2:live",))
    body = {"requestContext": {"functionArn": f"{FUNCTION}-2:7"}, "requestPayload": {}}
    registry = Registry((), (one,))
    letter = dead_letter(body=json.dumps(body), attributes={})
    assert registry.place(letter).pool == "billing"


def test_the_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    one = {
        "function": FUNCTION,
        "pool": "billing",
        "task_definition": "t",
        "role": "r",
        "sources": [QUEUE],
    }
    path.write_text(json.dumps({"own": [SOURCE], "functions": [one]}))
    found = load(str(path))
    assert found.pools == ("own", "billing")
    settings = task_settings(
        {
            "OVERFLOW_CLUSTER": "c",
            "OVERFLOW_TASK_DEFINITION": "d",
            "OVERFLOW_CONTAINER": "runner",
            "OVERFLOW_SUBNETS": "s",
        },
        found,
    )
    assert settings.task_definitions == {"own": "d", "billing": "t"}
    assert settings.roles == {"billing": "r"}
    wrong: list[tuple[Any, str]] = [
        ({"functions": [one | {"source": []}]}, r"registry.json: .*source"),
        ({"functions": [one | {"pool": "own"}]}, "not a name for a pool"),
        ({"functions": [one | {"pool": "../x"}]}, "not a name for a pool"),
        ({"own": [QUEUE], "functions": [one]}, "registered twice"),
        ({"functions": [one, one | {"function": f"{FUNCTION}-2"}]}, "registered twice"),
        (
            {"functions": [one, one | {"function": f"{FUNCTION}-2", "sources": [], "role": "x"}]},
            "one task definition and one role",
        ),
    ]
    for content, message in wrong:
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            load(str(path))


# -- running


def zipped(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/") + ".py", text)
    return data.getvalue()


HANDLER = """
import json, os, sys
import helper, layered
def handle(event, context):
    seen = {"event": event, "environ": dict(os.environ), "helper": helper.VALUE,
            "layered": layered.VALUE, "id": context.aws_request_id, "cwd": os.getcwd(),
            "left": context.get_remaining_time_in_millis(), "arn": context.invoked_function_arn}
    json.dump(seen, open(os.environ["SEEN"], "w"))
    print("the function was here")
    match event.get("does"):
        case "raise": raise KeyError("no such bill, secret " + os.environ.get("TELL", ""))
        case "exit": os._exit(3)
        case "fail": return {"batchItemFailures": [{"itemIdentifier": "m1"}]}
        case "sleep":
            import time
            open(os.environ["SEEN"] + ".sleeping", "w").write(str(os.getpid()))
            time.sleep(60)
"""
LAYER = zipped(python__layered="VALUE = 'of the layer'")
CODE = zipped(app__main=HANDLER, helper="VALUE = 'of the function'")


class Aws:
    """Lambda's API, checked against botocore's models, and a web server with its zips."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address
        self.client = boto3.client(
            "lambda", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.stub = Stubber(self.client)
        self.seen = directory / "seen.json"
        self.opt = directory / "opt"
        self.opt.mkdir()
        self.has_opt = True
        self.records = Records(MemoryObjects())

    def serve(self, code: bytes = CODE, **changes: Any) -> None:
        (self.directory / "code.zip").write_bytes(code)
        (self.directory / "layer.zip").write_bytes(LAYER)
        configuration: dict[str, Any] = {
            "FunctionName": "billing",
            "Runtime": RUNTIME,
            "Handler": "app/main.handle",
            "PackageType": "Zip",
            "Architectures": [HERE],
            "MemorySize": 512,
            "Version": "7",
            "Layers": [{"Arn": f"{FUNCTION.replace('function', 'layer')}:3"}],
            "Environment": {"Variables": {"SEEN": str(self.seen), "TABLE": "bills"}},
        }
        configuration |= changes
        found: dict[str, Any] = {
            "Configuration": configuration,
            "Code": {"Location": f"{self.address}/code.zip?X-Amz-Signature=geheim1234"},
        }
        if configuration["PackageType"] == "Image":
            found["Code"] = {"ImageUri": "x", "RepositoryType": "ECR"}
        self.stub.add_response("get_function", found, {"FunctionName": f"{FUNCTION}:live"})
        if configuration["PackageType"] == "Zip" and configuration["Layers"]:
            self.stub.add_response(
                "get_layer_version_by_arn",
                {"Content": {"Location": f"{self.address}/layer.zip?X-Amz-Signature=geheim"}},
                {"Arn": configuration["Layers"][0]["Arn"]},
            )

    def run(self, event: Any, **settings: Any) -> int:
        body = {"requestContext": {"functionArn": FUNCTION}, "requestPayload": event}
        record = dead_letter(state=WAITING, pool="billing", body=json.dumps(body))
        self.records.put(record)
        job = functions(registry(), self.client, str(self.opt) if self.has_opt else None)
        runner = Runner(
            self.records, "m1.1", lambda: job, "billing", settings=RunnerSettings(**settings)
        )
        runner.listen()
        with self.stub:
            return runner.run("m1")

    def record(self) -> DeadLetterRecord:
        record = self.records.get("m1")
        assert record is not None
        return record

    def told(self) -> Any:
        return json.loads(self.seen.read_text())


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[Aws]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    kept = {
        each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    }
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Aws(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for each, old in kept.items():
        signal.signal(each, old)


def test_a_function_runs_with_its_code_layers_environment_and_event(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDS_URL", "s3://ours")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sehr-geheim")
    aws.serve()
    assert aws.run({"bill": 7}) == 0
    assert aws.records.get("m1") is None
    told = aws.told()
    assert told["event"] == {"bill": 7}
    assert (told["helper"], told["layered"]) == ("of the function", "of the layer")
    assert (told["id"], told["arn"]) == ("m1", f"{FUNCTION}:live")
    assert told["left"] > 15 * 60 * 1000
    environ = told["environ"]
    assert environ["TABLE"] == "bills"
    assert (environ["AWS_LAMBDA_FUNCTION_NAME"], environ["_HANDLER"]) == (
        "billing",
        "app/main.handle",
    )
    assert environ["LAMBDA_TASK_ROOT"] == told["cwd"]
    # Of the runner's own settings and credentials, the function sees nothing.
    assert "RECORDS_URL" not in environ
    assert "AWS_SECRET_ACCESS_KEY" not in environ
    assert not Path(told["cwd"]).exists()
    assert environ["PATH"].endswith(f":{aws.opt}/bin")
    assert environ["LD_LIBRARY_PATH"].endswith(f"{told['cwd']}/lib:{aws.opt}/lib")
    assert f"{aws.opt}/python" in environ["PYTHONPATH"].split(":")
    assert list(aws.opt.iterdir()) == []  # the next function's layers lie there alone


def test_without_a_directory_of_the_tasks_own_layers_lie_beside_the_code(aws: Aws) -> None:
    """On a person's machine /opt is theirs, even when it is empty."""
    aws.has_opt = False
    aws.serve()
    assert aws.run({"bill": 7}) == 0
    told = aws.told()
    assert told["layered"] == "of the layer"
    layers = str(Path(told["cwd"]).with_name("opt"))
    assert f"{layers}/python" in told["environ"]["PYTHONPATH"].split(":")


def serve_app(aws: Aws, source: str, **changes: Any) -> None:
    """A function of one module, without layers."""
    variables = {"Variables": {"SEEN": str(aws.seen)}}
    aws.serve(
        zipped(app=source),
        **{"Handler": "app.handle", "Layers": [], "Environment": variables} | changes,
    )


RETURNING = """
import decimal, json, os
async def coroutine():
    pass
def generator():
    yield
def handle(event, context):
    json.dump(event, open(os.environ["SEEN"], "w"))
    return {"coroutine": coroutine, "generator": generator, "set": lambda: {1},
            "bytes": lambda: b"1", "decimal": lambda: [decimal.Decimal("1.5")]}[event]()
"""


@pytest.mark.parametrize("answer", ["coroutine", "generator", "set"])
def test_an_answer_that_lambda_refuses_is_a_failed_run(aws: Aws, answer: str) -> None:
    """Above all the coroutine of an ``async`` handler, which nobody has awaited."""
    serve_app(aws, RETURNING)
    assert aws.run(answer) == 1
    assert aws.told() == answer
    assert aws.record().state == WAITING
    assert (
        aws.record().error
        == f"FunctionFailed: TypeError: Unable to marshal response: {answer} is no JSON"
    )


@pytest.mark.parametrize("answer", ["bytes", "decimal"])
def test_an_answer_that_lambda_takes_is_done(aws: Aws, answer: str) -> None:
    serve_app(aws, RETURNING)
    assert aws.run(answer) == 0
    assert aws.records.get("m1") is None


BOTO3 = """
import importlib.util, json, os
import boto3, botocore.session
def handle(event, context):
    shim, msgspec = (importlib.util.find_spec(name) for name in ("lambda_shim", "msgspec"))
    json.dump([boto3.__version__, str(shim), str(msgspec)], open(os.environ["SEEN"], "w"))
"""


def test_a_function_finds_boto3_as_on_lambda_and_nothing_else_of_the_runner(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr("lambda_shim.foreign.interpreter", lambda found: str(bare))
    serve_app(aws, BOTO3)
    assert aws.run({}) == 0
    assert aws.told() == [boto3.__version__, "None", "None"]


def test_a_function_whose_variables_cannot_be_decrypted_does_not_run_without_them(aws: Aws) -> None:
    refused = {"ErrorCode": "AccessDeniedException", "Message": "no kms:Decrypt on that key"}
    aws.serve(Environment={"Error": refused})
    assert aws.run({"bill": 7}) == 1
    record = aws.record()
    assert (record.state, record.runs) == (WAITING, 1)
    assert "cannot be read: AccessDeniedException: no kms:Decrypt" in record.error
    assert not aws.seen.exists()


LEAVING = """
import json, logging, os, subprocess, sys, threading, time
logging.getLogger().setLevel("INFO")
def handle(event, context):
    logging.getLogger("bills").info("seven of them")
    threading.Thread(target=time.sleep, args=(1000,)).start()
    sleeping = [sys.executable, "-c", "import time; time.sleep(1000)"]
    children = [subprocess.Popen(sleeping, start_new_session=own).pid for own in (False, True)]
    json.dump(children, open(os.environ["SEEN"], "w"))
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
def test_threads_and_processes_that_a_function_leaves_behind_are_ended(
    aws: Aws, capfd: pytest.CaptureFixture[str]
) -> None:
    serve_app(aws, LEAVING)
    assert aws.run({}) == 0
    assert aws.records.get("m1") is None
    children = aws.told()
    assert len(children) == 2
    assert not any(map(running, children))
    assert "seven of them" in capfd.readouterr().out


def test_a_directory_for_layers_that_holds_something_is_left_alone(aws: Aws) -> None:
    (aws.opt / "somebodys").write_text("")
    aws.serve()
    assert aws.run({"bill": 7}) == 0
    told = aws.told()
    assert told["layered"] == "of the layer"
    assert str(aws.opt) not in told["environ"]["PYTHONPATH"]
    assert [path.name for path in aws.opt.iterdir()] == ["somebodys"]


@pytest.mark.parametrize(
    ("does", "error"),
    [
        ("raise", "FunctionFailed: KeyError: 'no such bill, secret "),
        ("exit", "FunctionFailed: the function's process ended with status 3"),
        ("fail", "FunctionFailed: the function named its message in batchItemFailures"),
    ],
)
def test_a_function_that_fails_leaves_its_record(does: str, error: str, aws: Aws) -> None:
    aws.serve()
    assert aws.run({"does": does}) == 1
    record = aws.record()
    assert (record.state, record.runs) == (WAITING, 1)
    assert record.error.startswith(error)
    if does == "raise":
        assert "in handle" in (record.traceback or "")


def test_credentials_do_not_leak_into_records_and_logs(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "sehr-geheimes-token")
    aws.serve(Environment={"Variables": {"SEEN": str(aws.seen), "TELL": "sehr-geheimes-token"}})
    with caplog.at_level(logging.DEBUG, "lambda_shim"):
        assert aws.run({"does": "raise"}) == 1
    record = aws.record()
    for text in (record.error, record.traceback or "", caplog.text):
        assert "geheim" not in text
    assert "no such bill, secret …" in record.error


def test_a_download_that_fails_does_not_tell_its_address(aws: Aws) -> None:
    with pytest.raises(OSError, match="HTTPError 404") as caught:
        download(f"{aws.address}/nothing.zip?X-Amz-Signature=geheim")
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert redact("at https://x/?X-Amz-Security-Token=abc%2F&X-Amz-Date=1", {}) == (
        "at https://x/?X-Amz-Security-Token=…&X-Amz-Date=…"
    )
    with pytest.raises(BadArchive):
        download("file:///etc/passwd")


@pytest.mark.parametrize(
    ("changes", "reason", "why"),
    [
        ({"PackageType": "Image"}, "image_function", "container image"),
        ({"Runtime": "nodejs22.x"}, "not_runnable", "nodejs22.x"),
        ({"Runtime": "python3.1"}, "not_runnable", "no python3.1"),
        (
            {"Architectures": ["x86_64" if HERE == "arm64" else "arm64"]},
            "not_runnable",
            "built for",
        ),
    ],
)
def test_a_function_that_cannot_run_here_is_parked(
    changes: dict[str, Any], reason: str, why: str, aws: Aws
) -> None:
    aws.serve(**changes)
    assert aws.run({"bill": 7}) == 0
    record = aws.record()
    assert (record.state, record.reason) == (PARKED, reason)
    assert why in record.error


def test_a_zip_that_climbs_out_is_refused_and_parked(aws: Aws) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../evil.py", "x")
    aws.serve(data.getvalue())
    assert aws.run({"bill": 7}) == 0
    assert aws.record().reason == "not_runnable"
    assert "climbs out" in aws.record().error


def test_sigterm_ends_the_functions_process_too(aws: Aws) -> None:
    aws.serve()
    sleeping = Path(f"{aws.seen}.sleeping")
    children: list[int] = []

    def stop() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not (sleeping.exists() and sleeping.read_text()):
            time.sleep(0.01)
        children.append(int(sleeping.read_text()))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert aws.run({"does": "sleep"}, grace=0.3) == 0
    thread.join()
    record = aws.record()
    assert (record.state, record.runs) == (WAITING, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


# -- archives


def archive(*entries: tuple[str, str | bytes, int]) -> io.BytesIO:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as target:
        for name, text, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            target.writestr(info, text)
    return data


FILE, LINK, FOLDER = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755


@pytest.mark.parametrize(
    "entries",
    [
        [("../evil", "x", FILE)],
        [("a/../../evil", "x", FILE)],
        [("/evil", "x", FILE)],
        [("..\\evil", "x", FILE)],
        [("C:/evil", "x", FILE)],
        [("link", "/tmp", LINK), ("link/evil", "x", FILE)],
        [("link", "..", LINK), ("link/evil", "x", FILE)],
        [("sub/link", "../..", LINK)],
        # Harmless when it is made; the second link turns it into the way out.
        [("a", "b/..", LINK), ("b", ".", LINK), ("a/evil", "x", FILE)],
        # At odds with itself.
        [("a", "b", LINK), ("b", "a", LINK), ("a/x", "x", FILE)],
        [("a", "b", LINK), ("b", "a", LINK), ("a/x/", "", FOLDER)],
        [("a", b"\xff", LINK)],
        [("a", "b\0", LINK)],
        [("a", "", LINK)],
        [("a", "x", FILE), ("a/b", "x", FILE)],
        [("a/b", "x", FILE), ("a", "x", FILE)],
        [("a" * 300, "x", FILE)],
    ],
    ids=str,
)
def test_no_archive_writes_outside_of_its_directory(
    entries: list[tuple[str, str | bytes, int]], tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(BadArchive):
        unpack(archive(*entries), str(inside))
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_files_links_and_modes_are_kept(tmp_path: Path) -> None:
    data = archive(
        ("bin/run", "#!/bin/sh", stat.S_IFREG | 0o755),
        ("lib.so.1", "library", FILE),
        ("lib.so", "lib.so.1", LINK),
        ("folder/", "", FOLDER),
    )
    assert unpack(data, str(tmp_path)) == len("#!/bin/shlibrary")
    assert os.access(tmp_path / "bin" / "run", os.X_OK)
    assert not os.access(tmp_path / "lib.so.1", os.X_OK)
    assert (tmp_path / "lib.so").read_text() == "library"
    assert (tmp_path / "folder").is_dir()
    unpack(data, str(tmp_path))  # a layer twice, or two that share files


def test_an_archive_that_is_too_large_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="more than 10 bytes"):
        unpack(archive(("a", "x" * 11, FILE)), str(tmp_path), most=10)
    with pytest.raises(BadArchive):
        unpack(io.BytesIO(b"no zip"), str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as broken:
        broken.writestr("a", "xyz" * 100)
    data = packed.getvalue()
    with pytest.raises(BadArchive):
        unpack(io.BytesIO(data[:31] + b"\xff" * 4 + data[35:]), str(tmp_path / "broken"))
