"""The function as it runs inside an execution environment: its variables, handler, context and logs.

What awslambdaric, the production runtime client, does in Lambda; the poller itself imports none of it.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .invocation import (
    ERROR,
    RESPONSE,
    Invocation,
    Outcome,
    remaining_milliseconds,
)
from .settings import Settings

Handler = Callable[[Any, "LambdaContext"], Any]


class LambdaContext:
    """The second argument of a handler.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    function_version = "$LATEST"
    identity = None
    client_context = None
    tenant_id = None

    def __init__(self, settings: Settings, invocation: Invocation) -> None:
        self.aws_request_id = invocation.request_id
        self.function_name = settings.function.name
        self.invoked_function_arn = function_arn(settings)
        self.memory_limit_in_mb = str(settings.function.memory_mb)
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self._deadline = invocation.deadline
        self._timeout = settings.function.timeout

    def get_remaining_time_in_millis(self) -> int:
        """Time left; in debug mode always the whole timeout, since nothing enforces it."""
        if self._deadline is None:
            return int(self._timeout * 1000)
        return remaining_milliseconds(self._deadline)

    def log(self, text: str) -> None:
        sys.stdout.write(str(text))


def function_arn(settings: Settings) -> str:
    return f"arn:aws:lambda:{settings.region}:{settings.account}:function:{settings.function.name}"


def environment_variables(settings: Settings, log_stream: str) -> dict[str, str]:
    """Lambda's reserved variables, and the function's own."""
    function = settings.function
    return {
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "TZ": ":UTC",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",  # the default with JSON logs
        "LAMBDA_TASK_ROOT": function.path[0] if function.path else os.getcwd(),
        **function.environment,
        "_HANDLER": function.handler,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python{}.{}".format(*sys.version_info),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    }


class Function:
    """A function after its init phase."""

    def __init__(self, settings: Settings, *, log_stream: str, json_logs: bool = True) -> None:
        """Set the environment variables and the log handler, then import the handler.

        Raises whatever the import raises; HandlerNotFound when the module lacks the function.
        """
        self._settings = settings
        self._json_logs = json_logs
        os.environ.update(environment_variables(settings, log_stream))
        time.tzset()
        sys.path[:0] = [entry for entry in settings.function.path if entry not in sys.path]
        _set_up_logging(json_logs)
        self._handler = find_handler(settings.function.handler)

    def invoke(self, invocation: Invocation) -> Outcome:
        """Call the handler. SystemExit and the like are not caught: they end the environment."""
        global _request_id
        _request_id = invocation.request_id
        try:
            event = json.loads(invocation.payload)
            result = self._handler(event, LambdaContext(self._settings, invocation))
            if result is None:
                return Outcome(RESPONSE, b"null")
            try:
                return Outcome(RESPONSE, json.dumps(result).encode())
            except Exception as error:
                unable = RuntimeError(f"Unable to marshal response: {error}")
                return self._failure(error_document(unable, "Runtime.MarshalError"))
        except Exception as error:
            return self._failure(error_document(error))
        finally:
            _request_id = None

    def _failure(self, document: dict[str, Any]) -> Outcome:
        log_error(document, self._json_logs)
        return Outcome(ERROR, json.dumps(document).encode())


class HandlerNotFound(Exception):
    """The module has no such function."""


def find_handler(handler: str) -> Handler:
    module, _, name = handler.rpartition(".")
    found: Handler | None = getattr(import_module(module), name, None)
    if not callable(found):
        raise HandlerNotFound(f"Handler {name!r} missing on module {module!r}")
    return found


def error_document(error: BaseException, error_type: str = "") -> dict[str, Any]:
    """Lambda's error object, without the frames of this module and of the import system."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [x for x in frames if x.filename != __file__ and "importlib" not in x.filename]
    return {
        "errorMessage": str(error),
        "errorType": error_type or type(error).__name__,
        "stackTrace": traceback.format_list(own),
    }


def log_error(document: dict[str, Any], json_logs: bool) -> None:
    """Write a failure to the function's log, as the runtime client does."""
    if json_logs:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        known = {"timestamp": moment, "level": "ERROR", "requestId": _request_id or ""}
        text = json.dumps({**known, **document}, ensure_ascii=False)
    else:
        trace = "".join(document["stackTrace"])
        text = f"[ERROR] {document['errorType']}: {document['errorMessage']}\n{trace}"
    print(text, flush=True)


_request_id: str | None = None


def _set_up_logging(json_logs: bool) -> None:
    import logging

    handler = logging.StreamHandler(sys.stdout)
    if json_logs:
        from .json_logs import JsonFormatter

        handler.setFormatter(JsonFormatter(lambda: _request_id))
    else:
        handler.setFormatter(logging.Formatter("%(levelname)-8s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(os.environ["AWS_LAMBDA_LOG_LEVEL"])
