"""Services made once for all tests of this tier."""

from __future__ import annotations

import pytest

from ..baking import BakedProject, Template, commit_all, described

SERVICES = {
    "statements": {"example": "statements"},
    "minimal": {"example": "minimal"},
    "fifo": {"example": "minimal", "queue_type": "fifo"},
}


@pytest.fixture(scope="session", params=SERVICES)
def service(
    request: pytest.FixtureRequest, template: Template, tmp_path_factory: pytest.TempPathFactory
) -> BakedProject:
    """A service of each kind, committed; its environment is made once."""
    output = tmp_path_factory.mktemp("service")
    process = template.cookiecutter(output, **SERVICES[request.param])
    assert process.returncode == 0, described(process)
    project = BakedProject(output / "statement-service")
    commit_all(project.path, "Start from the template")
    return project
