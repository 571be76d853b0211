"""Log records as Lambda's managed Python runtime writes them with LogFormat JSON."""

import json
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

# What every LogRecord has; anything else came with `extra=`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: timestamp, level, message, logger, requestId, the exception if there is
    one, and the fields given with `extra=` that are not None."""

    def __init__(self, request_id: Callable[[], str | None]) -> None:
        super().__init__()
        self._request_id = request_id

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "message": record.msg
            if isinstance(record.msg, dict) and not record.args
            else record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            document["stackTrace"] = traceback.format_tb(record.exc_info[2])
            document["errorType"] = record.exc_info[0].__name__
            document["errorMessage"] = str(record.exc_info[1])
            document["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        document["requestId"] = self._request_id() or ""  # empty in the init phase
        for key, value in record.__dict__.items():
            if key not in _STANDARD and key not in document and value is not None:
                document[key] = value
        return json.dumps(document, default=str, ensure_ascii=False)
