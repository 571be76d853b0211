"""A client of the task agent that plays ECS; see `local_sqs.task_agent`."""

import json
import socket
import time
from typing import Any


class ClientError(Exception):
    """An error that ECS answers with; `response` is shaped like botocore's."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message
        self.response: dict[str, Any] = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


class _Exceptions:
    ClientError = ClientError


class TaskClient:
    """What boto3's client for ECS would be, spoken to an agent at `host:port`.

    Every call raises ClientError, or OSError when no agent answers.
    """

    exceptions = _Exceptions

    def __init__(self, address: str, patience: float = 10.0) -> None:
        """`patience`: seconds to wait for an agent that is only just starting."""
        host, _, port = address.rpartition(":")
        self._address = host, int(port)
        self._patience = patience

    def run_task(self, **parameters: Any) -> dict[str, Any]:
        return self._call("RunTask", parameters)

    def describe_tasks(self, **parameters: Any) -> dict[str, Any]:
        return self._call("DescribeTasks", parameters)

    def stop_task(self, **parameters: Any) -> dict[str, Any]:
        return self._call("StopTask", parameters)

    # What no cloud offers

    def tasks(self) -> list[dict[str, Any]]:
        """All tasks, the oldest first, each with its `pid`."""
        found: list[dict[str, Any]] = self._call("Tasks", {})["tasks"]
        return found

    def kill(self, task: str) -> None:
        """Send a task SIGKILL."""
        self._call("Kill", {"task": task})

    def tick(self) -> None:
        """Invoke the function as its schedule does, now."""
        self._call("Tick", {})

    def set_faults(self, **faults: int) -> None:
        """Have so many of the next calls or tasks go wrong; 0 switches a fault off.

        failures: RunTask answers 200 with `failures`. empty: it answers 200 with neither tasks nor
        failures. capacity: there is none, in any subnet that is asked for. stillborn: the task stops
        before its container starts. silent: no event tells of the task's end.
        """
        self._call("SetFaults", faults)

    def _call(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        request = json.dumps({"action": action, "parameters": parameters}).encode() + b"\n"
        with self._connect() as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                line = answers.readline()
        if not line:
            raise ConnectionError("the task agent gave no answer")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClientError(**answer["error"])
        return answer

    def _connect(self) -> socket.socket:
        until = time.monotonic() + self._patience
        while True:
            try:
                return socket.create_connection(self._address, timeout=self._patience)
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
