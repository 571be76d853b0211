"""Every scenario gets a process group of its own, with the service's times shortened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from procgroup import ProcessGroup

from .service import LocalService

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
    runner="tests.doubles.runner",
{%- endif %}
)


@pytest.fixture
def service(
    request: pytest.FixtureRequest, launch_group: Callable[..., ProcessGroup]
) -> LocalService:
    """The service, running; ``@pytest.mark.service(concurrency=4)`` changes its numbers."""
    variables: dict[str, Any] = {
        "time_scale": TIME_SCALE,
        "environments": ENVIRONMENTS[request.config.getoption("--ring")],
    }
    for marker in reversed(list(request.node.iter_markers("service"))):
        variables |= marker.kwargs
    return LocalService(
        launch_group(
            PROJECT / "blueprints" / "service.yaml",
            variables=variables,
            # Another name, so that `make send` finds the service that `make run` keeps up.
            overrides={
                "name": "{{ cookiecutter.project_slug }}-scenario",
                "roles": {role: {"environment": {"PYTHONPATH": str(PROJECT)}} for role in DOUBLED},
            },
        )
    )
