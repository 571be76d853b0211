"""Every scenario gets a process group of its own, with the service's times shortened; or, in the
staging ring, a stage that is deployed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from procgroup import ProcessGroup

from .. import example
from .package import Package, unpack
from .rings import STAGE_LACKS, needed
from .service import LocalService, Service

if TYPE_CHECKING:  # boto3 is there for the staging ring alone
    from .staging import Stage

PROJECT = Path(__file__).parents[2]

# The one factor by which scenarios shorten the service's times: a function timeout of 30 s
# becomes 3 s. Visibility timeouts cost nothing at all, since the queue's clock can be moved.
TIME_SCALE = 0.1

# What runs the handler in each ring.
ENVIRONMENTS = {"local": "fork", "runtime": "runtime"}

# The roles whose code may be one of tests/doubles.
DOUBLED = ["worker"{% if cookiecutter.overflow == 'fargate' %}, "tasks"{% endif %}]

# Puts the fault switches of tests/doubles/faults.py in front of the service's jobs.
with_faults = pytest.mark.service(
    handler="tests.doubles.faults.worker",
{%- if cookiecutter.overflow == 'fargate' %}
    runner=["python", "-m", "tests.doubles.runner"],
{%- endif %}
)

# Every init of the function fails.
without_handler = pytest.mark.service(handler="tests.doubles.missing.worker")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What is asked of the zip is asked where there is one."""
    return True if collection_path.name == "test_zip.py" and not config.option.zip else None


@pytest.fixture(scope="session")
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The zip of ``--zip``, unpacked."""
    return unpack(Path(request.config.option.zip), tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> "Stage":
    """The deployed stage of ``--stage``."""
    from botocore.exceptions import BotoCoreError, ClientError

    from .staging import Stage

    stack = f"{{ cookiecutter.project_slug }}-{request.config.option.stage}"
    try:
        return Stage(stack)
    except (BotoCoreError, ClientError) as error:  # as for the next scenario, and all others
        pytest.exit(f"{stack} cannot be tested: {error}", returncode=1)


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Service:
    """The service, running; ``@pytest.mark.service(concurrency=4)`` changes its numbers."""
    if request.config.option.ring != "staging":
        return local_service(request)
    stage: Stage = request.getfixturevalue("stage")
    for need in needed(request.node):
        if stage.lacks(need):
            pytest.skip(STAGE_LACKS[need])
    from .staging import StagedService

    # Greater by more than one scenario uses than what any run before had.
    example.first = time.time_ns() // 1_000_000 % 10**11 * 1000
    return StagedService(stage)


def local_service(request: pytest.FixtureRequest) -> LocalService:
    """A process group of its own, for the local and runtime rings."""
    launch_group: Callable[..., ProcessGroup] = request.getfixturevalue("launch_group")
    variables: dict[str, Any] = {
        "time_scale": TIME_SCALE,
        "environments": ENVIRONMENTS[request.config.option.ring],
    }
    environment = {"PYTHONPATH": str(PROJECT)}
    if request.config.option.zip:
        package: Package = request.getfixturevalue("package")
        variables |= {"package": str(package.code), "handler": "tests.doubles.overlay.worker"}
        environment["LOCAL_OVERLAY"] = str(package.overlay)
    for marker in reversed(list(request.node.iter_markers("service"))):
        variables |= marker.kwargs
    return LocalService(
        launch_group(
            PROJECT / "blueprints" / "service.yaml",
            variables=variables,
            # Another name, so that `make send` finds the service that `make run` keeps up.
            overrides={
                "name": "{{ cookiecutter.project_slug }}-scenario",
                "roles": {role: {"environment": environment} for role in DOUBLED},
            },
        )
    )
