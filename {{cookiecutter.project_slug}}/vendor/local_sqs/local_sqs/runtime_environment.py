"""An execution environment as Lambda has it: the production runtime client behind the Runtime API."""

import os
import sys
import time
from collections import deque
from importlib.util import find_spec

from .child import KERNEL_WATCHES, ChildProcess, how_it_ended
from .environment import EnvironmentExited
from .function import environment_variables, function_arn
from .invocation import INIT_DONE, Invocation, Outcome
from .message import new_id
from .runtime_api import RuntimeApi
from .settings import Settings, SettingsError

# For where the kernel does not watch the lifeline (see child.py): a thread of the runtime's process does.
_WATCHED = """
import _thread, os, runpy, signal, sys
def watch(lifeline):
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
_thread.start_new_thread(watch, (int(sys.argv.pop(1)),))
runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
"""


def require_runtime_client() -> None:
    """Raises SettingsError when awslambdaric is not installed."""
    if find_spec("awslambdaric") is None:
        raise SettingsError(
            'function.environments: "runtime" needs the package awslambdaric, which is not '
            f"installed for {sys.executable}; it is on PyPI (uv add --dev awslambdaric)"
        )


class RuntimeEnvironment:
    """An environment in a child process that runs awslambdaric; see `environment.Environment`.

    The child is a new interpreter: it shares nothing with the poller but the log, its variables and
    PYTHONPATH, and imports all that it needs itself, as on AWS.
    """

    unsent = False
    descriptors = ()  # they close when another child executes the interpreter

    def __init__(self, settings: Settings) -> None:
        """Start the process and its init phase."""
        self._api = RuntimeApi(function_arn(settings))
        variables = _variables(settings, self._api.address)

        def main(lifeline: int) -> None:
            os.set_inheritable(lifeline, True)
            os.execve(sys.executable, command(settings, lifeline), variables)

        self._child = ChildProcess(main, [])
        self.pid = self._child.pid
        self._outcomes: deque[Outcome] = deque()

    def fileno(self) -> int | None:
        return self._api.fileno()

    def flush(self) -> None:
        return

    def invoke(self, invocation: Invocation) -> None:
        self._api.invoke(invocation)

    def outcome(self) -> Outcome | None:
        status = self._child.exit_status()  # before the last look at what it had sent
        self._outcomes += self._api.step()
        if self._outcomes:
            return self._outcomes.popleft()
        if status is not None:
            if (ended := self._api.take_ended()) is not None and ended.kind != INIT_DONE:
                return ended
            raise EnvironmentExited(how_it_ended(status))
        return None

    def signal_kill(self) -> None:
        self._child.signal_kill()

    def kill(self) -> None:
        self._child.kill()
        self._api.close()


def command(
    settings: Settings, lifeline: int, *, kernel_watches: bool = KERNEL_WATCHES
) -> list[str]:
    """How the runtime client is started."""
    # With a path of its own, what lies in the working directory must not shadow the function.
    safe = ["-P"] if settings.function.path else []
    client = ["-m", "awslambdaric"] if kernel_watches else ["-c", _WATCHED, str(lifeline)]
    return [sys.executable, *safe, *client, settings.function.handler]


def _variables(settings: Settings, address: str) -> dict[str, str]:
    log_stream = f"{time.strftime('%Y/%m/%d')}/[$LATEST]{new_id()}"
    variables = os.environ | environment_variables(settings, log_stream)
    paths = [*settings.function.path, variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    variables["AWS_LAMBDA_RUNTIME_API"] = address
    return variables
