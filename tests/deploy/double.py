"""The double beside a stage: what its stack deployed, behind what stands for its function's URL.

moto gives functions URLs and answers at none. Here one is answered on this machine, by the deployed
code under awslambdaric, in the form in which a URL hands a request over (payload version 2.0).
"""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moto.awslambda.models import lambda_backends

from .aws import ACCOUNT, REGION
from .pump import Function, running
from .stage import client
from .tools import NOWHERE


class FunctionUrl:
    """Answers as its function does, once there is one; and notes the paths that it was asked for."""

    def __init__(self) -> None:
        self.function: Function | None = None
        self.asked: list[str] = []
        url = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                url.asked.append(parts.path)
                assert url.function is not None
                answer: dict[str, Any] = url.function(
                    {
                        "version": "2.0",
                        "rawPath": parts.path,
                        "rawQueryString": parts.query,
                        "headers": {name.lower(): text for name, text in self.headers.items()},
                    }
                )
                body = answer["body"].encode()
                self.send_response(answer["statusCode"])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"  # AWS's end so, too


@contextmanager
def function_url() -> Iterator[FunctionUrl]:
    url = FunctionUrl()
    thread = threading.Thread(target=url.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        url.server.shutdown()
        url.server.server_close()
        thread.join()


@contextmanager
def double(account: str, stack: str, directory: Path) -> Iterator[Function]:
    """The function of this stack, with its own code, handler and variables.

    Args:
        account: its address.
        stack: has one function.
        directory: for the code; a new one.
    """
    listed = client(account, "cloudformation").list_stack_resources(StackName=stack)
    (name,) = [
        each["PhysicalResourceId"]
        for each in listed["StackResourceSummaries"]
        if each["ResourceType"] == "AWS::Lambda::Function"
    ]
    made = client(account, "lambda").get_function_configuration(FunctionName=name)
    code = lambda_backends[ACCOUNT][REGION].get_function(name).code_bytes
    zipfile.ZipFile(io.BytesIO(code)).extractall(directory)
    variables = made["Environment"]["Variables"] | NOWHERE | {"AWS_ENDPOINT_URL": account}
    with running(directory, made["Handler"], variables, made["Timeout"]) as function:
        yield function
