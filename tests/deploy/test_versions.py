"""The command lines that these tests run are the very versions that services take."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ..baking import BakedProject, described
from .conftest import TARGETS
from .test_deployment import PROGRAMS
from .tools import program, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_tested_is_what_services_take(
    target: str, project_for: Callable[..., BakedProject]
) -> None:
    project = project_for(deploy_target=target)
    (pinned,) = re.findall(r'(?m)^PINNED = ".*(?:@|==)(.*)"$', project.read("tools/target.py"))
    process = run(program(PROGRAMS[target]), "--version", directory=project.path)
    assert process.returncode == 0, described(process)
    assert re.search(rf"(^|\s){re.escape(pinned)}(\s|$)", process.stdout), process.stdout
