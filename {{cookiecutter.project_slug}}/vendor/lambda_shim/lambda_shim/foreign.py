"""Running another service's function: its code, layers, environment and handler, in a process of
its own.

For Python functions packaged as zip, on the runner's architecture. The function's process is given
the function's variables and the task's role, and nothing else of the runner's environment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

from lambda_shim import records as dead_letters
from lambda_shim.archives import UNPACKED_MOST, BadArchive, unpack
from lambda_shim.contract import Reject
from lambda_shim.records import DeadLetterRecord
from lambda_shim.registry import Registry, Target
from lambda_shim.runner import Job, Run

# What a process needs to find itself and, in a task, its role's credentials.
PASSED = (
    "PATH",
    "LANG",
    "TZ",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EXECUTION_ENV",
)
SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
# What Lambda's Python runtimes bring beside the standard library (AWS documentation, "Building Lambda
# functions with Python", "Runtime-included SDK versions"): boto3, and what it stands on.
BROUGHT = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3")
DOWNLOAD_TIMEOUT = 60.0  # seconds without a byte
ENDING_MOST = 5.0  # seconds until processes that do not end on SIGKILL are left to the kernel


class NotRunnable(Reject):
    """The function cannot be run here, now or ever; ``code`` is the reason to park with."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class FunctionFailed(Exception):
    """The function raised, died, or named its message as failed; the text is its own."""


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """A text for logs and records, without credentials and without signatures of URLs."""
    text = re.sub(r"(?i)(x-amz-[a-z-]+=)[^&\s\"'<>]+", r"\1…", text)
    for name in SECRETS:
        if len(secret := environ.get(name, "")) >= 8:
            text = text.replace(secret, "…")
    return text


def download(url: str) -> IO[bytes]:
    """What lies at a presigned URL, in a temporary file. The URL is as good as a password, so no
    error shows it."""
    from urllib.request import urlopen

    if not url.startswith(("https://", "http://")):
        raise BadArchive("the code does not lie at a web address")
    file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer:
            size = 0
            while block := answer.read(1 << 20):
                size += len(block)
                if size > UNPACKED_MOST:
                    raise BadArchive(f"more than {UNPACKED_MOST:,} bytes")
                file.write(block)
    except BadArchive:
        file.close()
        raise
    except OSError as error:
        file.close()
        status = getattr(error, "code", "")
        raise OSError(f"the code could not be fetched: {type(error).__name__} {status}") from None
    file.seek(0)
    return file


def functions(
    registry: Registry,
    client: Any = None,
    opt: str | None = None,
    fetch: Callable[[str], IO[bytes]] = download,
) -> Job:
    """The job that runs whatever function is registered for a record.

    Args:
        registry: what may run.
        client: boto3's for Lambda.
        opt: where layers are unpacked, which nobody else uses, if it is empty and can be written to;
            it is emptied again. Otherwise another place serves all code that finds its modules by
            ``sys.path``.
        fetch: for tests.
    """

    def job(record: DeadLetterRecord, run: Run) -> None:
        nonlocal client
        target = registry.target(record)
        if target is None:
            raise NotRunnable(dead_letters.NOT_REGISTERED, "no function is registered for it")
        if client is None:
            import boto3

            client = boto3.client("lambda")
        found = client.get_function(FunctionName=target.function.function)
        python = interpreter(found)
        with (
            tempfile.TemporaryDirectory(prefix="function-") as directory,
            _own_directory(opt, directory) as layers,
        ):
            task, runtime = (os.path.join(directory, name) for name in ("task", "runtime"))
            os.mkdir(task)
            _bring(runtime)
            left = UNPACKED_MOST
            for layer in found["Configuration"].get("Layers", ()):
                content = client.get_layer_version_by_arn(Arn=layer["Arn"])["Content"]
                left -= _place(fetch(content["Location"]), layers, left)
            _place(fetch(found["Code"]["Location"]), task, left)
            own = environment(found["Configuration"], task, layers, runtime, os.environ)
            _call(python, own, target, record, directory)

    return job


@contextmanager
def _own_directory(wanted: str | None, within: str) -> Iterator[str]:
    """A directory that was empty before and is empty again: the one wanted, or else a new one."""
    if wanted is None or not os.access(wanted, os.W_OK) or os.listdir(wanted):
        wanted = os.path.join(within, "opt")
        os.mkdir(wanted)
    try:
        yield wanted
    finally:
        for entry in os.scandir(wanted):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _place(file: IO[bytes], directory: str, most: int) -> int:
    with file:
        try:
            return unpack(file, directory, most)
        except BadArchive as error:
            raise NotRunnable(dead_letters.NOT_RUNNABLE, f"its code: {error}") from None


def _bring(directory: str) -> None:
    """Make a directory with what Lambda's runtime brings, as far as the runner itself has it."""
    os.mkdir(directory)
    for name in BROUGHT:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            path = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
            os.symlink(path, os.path.join(directory, os.path.basename(path)))


def interpreter(found: Mapping[str, Any]) -> str:
    """The Python that runs a function, as GetFunction describes it. Raises NotRunnable."""
    configuration = found["Configuration"]
    if configuration.get("PackageType") == "Image" or "ImageUri" in found.get("Code", {}):
        raise NotRunnable(dead_letters.IMAGE_FUNCTION, "the function is a container image")
    runtime: str = configuration.get("Runtime", "")
    if not re.fullmatch(r"python3\.\d+", runtime):
        raise NotRunnable(dead_letters.NOT_RUNNABLE, f"its runtime is {runtime or 'not named'}")
    here = ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    if here not in (there := configuration.get("Architectures") or ["x86_64"]):
        raise NotRunnable(
            dead_letters.NOT_RUNNABLE, f"it is built for {', '.join(there)}, the runner is {here}"
        )
    if runtime == f"python{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    if (path := shutil.which(runtime)) is None:
        raise NotRunnable(dead_letters.NOT_RUNNABLE, f"the runner has no {runtime}")
    return path


def environment(
    configuration: Mapping[str, Any],
    task: str,
    layers: str,
    runtime: str,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """The environment of the function's process, as Lambda sets it; arguments are directories.

    Raises FunctionFailed where the function's variables are not to be had: GetFunction answers all
    the same when it may not use the key that they are encrypted with.
    """
    given = configuration.get("Environment", {})
    if refused := given.get("Error"):
        why = f"{refused.get('ErrorCode')}: {refused.get('Message')}"
        raise FunctionFailed(redact(f"its environment variables cannot be read: {why}"))
    variables = given.get("Variables", {})
    packages = f"{layers}/python/lib/{configuration['Runtime']}/site-packages"
    path = [
        task,
        f"{layers}/python",
        packages,
        *filter(None, [variables.get("PYTHONPATH")]),
        runtime,
    ]
    own = {name: environ[name] for name in PASSED if name in environ}
    return {
        **own,
        **variables,
        "AWS_LAMBDA_FUNCTION_NAME": configuration["FunctionName"],
        "AWS_LAMBDA_FUNCTION_VERSION": configuration.get("Version", "$LATEST"),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configuration.get("MemorySize", 128)),
        "LAMBDA_TASK_ROOT": task,
        "LAMBDA_RUNTIME_DIR": runtime,
        "_HANDLER": configuration["Handler"],
        "PATH": os.pathsep.join(
            [variables.get("PATH", environ.get("PATH", os.defpath)), f"{layers}/bin"]
        ),
        "LD_LIBRARY_PATH": os.pathsep.join(
            [
                *filter(None, [variables.get("LD_LIBRARY_PATH", environ.get("LD_LIBRARY_PATH"))]),
                *(task, f"{task}/lib", f"{layers}/lib"),
            ]
        ),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


def _end_descendants(task: str) -> None:
    """Kill what the function has started in sessions of their own: its directory, which no other
    call has, is in their environment. (On Linux; elsewhere there is no task to keep clean.)"""
    mark = os.fsencode(f"LAMBDA_TASK_ROOT={task}")
    ends = time.monotonic() + ENDING_MOST
    while found := [pid for pid in _processes() if mark in _environment_of(pid).split(b"\0")]:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > ends:
            return
        time.sleep(0.01)


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []


def _environment_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:  # it has ended, or is somebody else's
        return b""


def _call(
    python: str,
    variables: Mapping[str, str],
    target: Target,
    record: DeadLetterRecord,
    directory: str,
) -> None:
    """Run the handler; raises FunctionFailed unless it returned, and did not name its message."""
    answer_path = os.path.join(directory, "answer.json")
    event_path = os.path.join(directory, "event.json")
    call = {
        "event": target.event,
        "request_id": record.message_id,
        "function_arn": target.function.function,
        "answer": answer_path,
    }
    with open(event_path, "w", encoding="utf-8") as file:
        json.dump(call, file)
    child = os.path.join(os.path.dirname(os.path.abspath(__file__)), "foreign_child.py")
    with open(child, encoding="utf-8") as file:
        code = file.read()
    process = subprocess.Popen(
        # As a string, not by its path: the directory it lies in is none of the function's.
        [python, "-c", code, event_path],
        cwd=variables["LAMBDA_TASK_ROOT"],
        env=variables,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait()
    finally:
        # Whatever it has left running, also when SIGTERM's grace or a lost lease ended the wait.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _end_descendants(variables["LAMBDA_TASK_ROOT"])
    try:
        with open(answer_path, encoding="utf-8") as file:
            answer = json.load(file)
    except (OSError, ValueError):
        raise FunctionFailed(f"the function's process ended with status {status}") from None
    if "error" in answer:
        failed = FunctionFailed(redact(answer["error"]))
        failed.add_note(redact(answer["traceback"]))
        raise failed
    returned = answer["returned"]
    if isinstance(returned, dict) and returned.get("batchItemFailures"):
        raise FunctionFailed("the function named its message in batchItemFailures")
