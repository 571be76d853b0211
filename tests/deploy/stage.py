"""A service that is deployed to moto, and what its worker would do there."""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3

from ..baking import BakedProject
from .pump import Function, running
from .tools import NOWHERE

STACK = "statement-service-dev"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def client(account: str, service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=account,
        region_name=NOWHERE["AWS_REGION"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


def for_this_python(project: BakedProject) -> None:
    """Have `make build` build for the interpreter at hand, which is to run the package here."""
    source = project.path / "tools" / "build.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(re.sub(r'(?m)^PYTHON = ".*"', f'PYTHON = "{PYTHON}"', text))


def outputs(account: str, stack: str = STACK) -> dict[str, str]:
    (found,) = client(account, "cloudformation").describe_stacks(StackName=stack)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}


@contextmanager
def deployed(account: str, project: BakedProject, output: str) -> Iterator[Function]:
    """The built zip, with the handler, variables and timeout of a function that was deployed.

    Args:
        account: its address.
        project: where the zip lies.
        output: of the stack; names the function.
    """
    function = client(account, "lambda").get_function_configuration(
        FunctionName=outputs(account)[output]
    )
    variables = function["Environment"]["Variables"] | NOWHERE | {"AWS_ENDPOINT_URL": account}
    # boto3 lies beside the runtime client on Lambda, and here in this environment.
    package = project.path / "build" / "unpacked"
    shutil.rmtree(package, ignore_errors=True)
    zipfile.ZipFile(project.path / "build" / "lambda.zip").extractall(package)
    with running(package, function["Handler"], variables, function["Timeout"]) as running_function:
        yield running_function
