"""A cold start under the production runtime client: exec → first poll, exec → first job done.

The second hides nothing: what a handler does not import before its first poll, it pays for in its
first job. The job is the same everywhere: decode a greeting, claim it, write it down, complete the
claim; over Redis and a file, or over DynamoDB and S3 (moto's) by boto3.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import packages
from benchmarks.events import event, identifier
from benchmarks.lab import PACKAGE, Lab, Unavailable, Variant, any_server, require
from benchmarks.processes import (
    AWS_VARIABLES,
    HOST,
    PATIENCE,
    environment,
    moto_server,
    redis_server,
)
from benchmarks.report import Metric, Result, Target, rows_of
from benchmarks.samples import Measured

if TYPE_CHECKING:
    from local_sqs.runtime_api import RuntimeApi

NAME = "lambda_init"
TITLE = "Lambda cold start under awslambdaric"

HANDLERS = Path(__file__).parent / "handlers"
FLOOR = "stdlib json (floor)"
OURS = "minimal service"
POWERTOOLS = "Powertools batch + pydantic"
FLOOR_BOTO3 = "stdlib json, boto3"
OURS_BOTO3 = "minimal service, boto3"
POLL = "exec → first poll"
JOB = "exec → first job done"
JOB_BOTO3 = "exec → first job done, boto3"
INIT = Target(1.35, ratio=True)
METRICS = (
    Metric(POLL, "ms", FLOOR, {OURS: INIT, OURS_BOTO3: INIT}),
    Metric(JOB, "ms", FLOOR),
    Metric(JOB_BOTO3, "ms", FLOOR_BOTO3),
)
BUCKET, TABLE = "documents", "ledger"


@dataclass(frozen=True)
class Function:
    """A function as deployed: its files, its handler, its environment variables.

    Attributes:
        documents: where its job leaves a file; None where it leaves none on this machine.
        job: what the time to its first job is called.
    """

    python: Path
    root: Path
    handler: str
    variables: Mapping[str, str]
    documents: Path | None
    job: str = JOB

    def cold_start(self) -> Measured:
        """Start it, hand it one record, and see the job done. In milliseconds since its exec."""
        from local_sqs.invocation import INIT_DONE, RESPONSE, Invocation
        from local_sqs.runtime_api import RuntimeApi

        greeting = identifier()
        document = json.dumps(event(greeting)).encode()
        with RuntimeApi("arn:aws:lambda:eu-central-1:123456789012:function:worker") as api:
            variables = {
                "AWS_LAMBDA_RUNTIME_API": api.address,
                "AWS_LAMBDA_FUNCTION_NAME": "worker",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
                "AWS_LAMBDA_LOG_FORMAT": "JSON",
                "LAMBDA_TASK_ROOT": str(self.root),
                **self.variables,
            }
            log = self.root.with_suffix(".log")
            with log.open("wb") as output:
                started = time.perf_counter()
                process = subprocess.Popen(
                    [str(self.python), "-m", "awslambdaric", self.handler],
                    cwd=self.root,
                    env=environment(**variables),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            try:
                _expect(api, INIT_DONE, log)
                polled = time.perf_counter()
                api.invoke(Invocation(identifier(), time.monotonic() + PATIENCE, document))
                response = _expect(api, RESPONSE, log)
                done = time.perf_counter()
            finally:
                process.kill()
                process.wait()
        if json.loads(response) != {"batchItemFailures": []}:
            raise RuntimeError(f"the job failed: {log.read_text()[-500:]}")
        if self.documents is not None and not (self.documents / f"{greeting}.txt").is_file():
            raise RuntimeError("the job left no file")
        return {POLL: 1000 * (polled - started), self.job: 1000 * (done - started)}


def _expect(api: RuntimeApi, kind: bytes, log: Path) -> bytes:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for outcome in api.step(deadline - time.monotonic()):
            if outcome.kind != kind:
                raise RuntimeError(f"{outcome}: {log.read_text()[-500:]}")
            return outcome.payload
    raise TimeoutError(f"not within {PATIENCE:g} s: {log.read_text()[-500:]}")


def run(lab: Lab) -> Result:
    """Measure it."""
    result = Result(NAME, TITLE)
    require("awslambdaric")
    sys.path.insert(0, str(lab.baked("minimal") / "vendor" / "local_sqs"))  # the Runtime API
    base = lab.directory("lambda")
    python = packages.lambda_python(base / "python")
    with redis_server(any_server(), base) as port, contextlib.ExitStack() as stack:
        functions = _over_redis(lab, base, python, port, result.notes)
        try:
            require("boto3", "moto")
            functions |= _over_boto3(lab, base, python, stack.enter_context(moto_server(base)))
        except Unavailable as missing:
            result.notes.append(f"{FLOOR_BOTO3}, {OURS_BOTO3}: not measured: {missing}")
        variants = [Variant(name, function.cold_start) for name, function in functions.items()]
        samples = lab.rounds(variants, result.notes)
    result.rows = rows_of(samples, METRICS, (OURS, OURS_BOTO3))
    result.notes += [
        "Every peer runs from a directory with what its zip would hold, compiled; the job is the "
        "same everywhere, the claim in a ledger included.",
        f"“{OURS}” has the Redis ledger on its path for the local rows; “{OURS_BOTO3}” is the "
        "package exactly as it ships. The job over boto3 includes moto's time to answer.",
    ]
    return result


def _over_redis(
    lab: Lab, base: Path, python: Path, port: int, notes: list[str]
) -> dict[str, Function]:
    """The functions whose job is a claim in Redis and a file."""
    documents = base / "documents"
    documents.mkdir()
    plain = {"REDIS": f"{HOST}:{port}", "DOCUMENTS": str(documents)}

    def peer(handler: str, *needs: str) -> Function:
        root = _task_root(base / handler, handler, "effects.py", *needs)
        return Function(python, root, f"{handler}.handler", plain, documents)

    functions = {FLOOR: peer("json_floor")}

    root, overlay = base / "minimal", base / "overlay"
    size = packages.built(lab.baked("minimal"), root)
    notes.append(f"“{OURS}” is what `make build` made, unpacked: a zip of {size:,} bytes.")
    packages.local_sqs(lab.baked("minimal"), overlay)
    variables = {
        "QUEUE_URL": f"redis://{HOST}:{port}/greetings",
        "LEDGER_URL": f"redis://{HOST}:{port}/ledger",
        "RECORDS_URL": f"file://{base}/dead-letters",
        "DOCUMENTS_URL": f"file://{documents}",
        "MAX_RECEIVE_COUNT": "5",
        "PYTHONPATH": str(overlay),
    }
    functions[OURS] = Function(python, root, _worker(), variables, documents)

    try:
        functions[POWERTOOLS] = peer("powertools_pydantic", "aws-lambda-powertools", "pydantic")
    except Unavailable as missing:
        notes.append(f"{POWERTOOLS}: not measured: {missing}")
    return functions


def _over_boto3(lab: Lab, base: Path, python: Path, url: str) -> dict[str, Function]:
    """The functions whose job is a claim in DynamoDB and an object in S3."""
    _create_stores(url)
    aws = {**AWS_VARIABLES, "AWS_ENDPOINT_URL": url}
    floor = _task_root(base / "json_floor_boto3", "json_floor", "boto3_effects.py")
    ours = base / "minimal_boto3"
    shutil.copytree(base / "minimal", ours)
    variables = {
        **aws,
        "QUEUE_URL": f"{url}/123456789012/greetings",
        "LEDGER_URL": f"dynamodb://{TABLE}",
        "RECORDS_URL": f"s3://{BUCKET}/records/",
        "DOCUMENTS_URL": f"s3://{BUCKET}/",
        "MAX_RECEIVE_COUNT": "5",
    }
    stores = {**aws, "TABLE": TABLE, "BUCKET": BUCKET}
    return {
        FLOOR_BOTO3: Function(python, floor, "json_floor.handler", stores, None, JOB_BOTO3),
        OURS_BOTO3: Function(python, ours, _worker(), variables, None, JOB_BOTO3),
    }


def _worker() -> str:
    return f"{PACKAGE}.shims.aws_lambda.worker"


def _task_root(root: Path, handler: str, effects: str, *needs: str) -> Path:
    """A directory with a peer's handler, its effects, and the distributions that it needs."""
    root.mkdir()
    packages.install(root, *needs)
    shutil.copyfile(HANDLERS / f"{handler}.py", root / f"{handler}.py")
    shutil.copyfile(HANDLERS / effects, root / "effects.py")
    packages.compile_all(root)
    return root


def _create_stores(url: str) -> None:
    import boto3

    session = boto3.Session(
        aws_access_key_id="testing", aws_secret_access_key="testing", region_name="eu-central-1"
    )
    session.client("s3", endpoint_url=url).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    session.client("dynamodb", endpoint_url=url).create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
