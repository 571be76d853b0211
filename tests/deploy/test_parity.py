"""Whichever tool a team picks, it gets the same infrastructure; made by the real tools."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..baking import BakedProject
from .conftest import SHAPES, TARGETS, Make, label
from .parity import (
    Template,
    canonical_names,
    differences,
    facts,
    is_noise,
    leaves,
    noise_report,
)
from .tools import STAGES, samconfig_parameters

FIRST, *OTHERS = TARGETS


def values_of(project: BakedProject, stage: str) -> dict[str, str]:
    """What a deployment of this stage fills in, in every target alike."""
    return {
        **samconfig_parameters(project, stage),
        "AWS::StackName": f"statement-service-{stage}",
    }


# Stages differ in a few values; every shape as one stage, and one shape as the other.
CASES = [*((answers, STAGES[0]) for answers in SHAPES), (SHAPES[0], STAGES[1])]


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "stage"), CASES, ids=label)
@pytest.mark.parametrize("target", OTHERS)
def test_the_same_infrastructure(
    target: str,
    answers: dict[str, str],
    stage: str,
    cloudformation: Make,
    project_for: Callable[..., BakedProject],
) -> None:
    values = values_of(project_for(deploy_target=FIRST, **answers), stage)
    one = facts(cloudformation(FIRST, stage, **answers), values)
    other = facts(cloudformation(target, stage, **answers), values)
    print(f"{len(one)} facts compared. Not compared:\n{noise_report()}")
    assert len(one) > 500
    found = differences(one, other)
    assert not found, "\n".join([f"left is {FIRST}, right is {target}:", *found])


def mutants(template: Template) -> Iterator[tuple[str, str, Template]]:
    """The template with one value changed, for every value of every resource.

    Yields the resource's logical id, the path of the value and the changed template.
    """
    for logical_id, resource in template["Resources"].items():
        for path, value in leaves(resource):
            mutant = copy.deepcopy(template)
            place = mutant["Resources"][logical_id]
            *parents, last = path.split(".")
            for key in joined(place, parents):
                place = place[key]
            key = int(last) if isinstance(place, list) else last
            place[key] = changed(value)
            yield logical_id, path, mutant


def joined(place: Any, parents: list[str]) -> Iterator[Any]:
    """The keys on the way down; a key may hold dots itself."""
    rest = list(parents)
    while rest:
        if isinstance(place, list):
            key: Any = int(rest.pop(0))
        else:
            key = rest.pop(0)
            while key not in place:
                key += "." + rest.pop(0)
        yield key
        place = place[key]


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case _:
            return "x"


@pytest.mark.parametrize("answers", SHAPES, ids=label)
def test_every_changed_value_is_reported_by_name(
    answers: dict[str, str], cloudformation: Make, project_for: Callable[..., BakedProject]
) -> None:
    values = values_of(project_for(deploy_target=FIRST, **answers), STAGES[0])
    template = cloudformation(FIRST, STAGES[0], **answers)
    names = canonical_names(template["Resources"])
    sound = facts(template, values)
    tried, silent = 0, []
    for logical_id, path, mutant in mutants(template):
        resource = template["Resources"][logical_id]
        if is_noise(resource["Type"], tag_by_name(resource, path)):
            continue
        tried += 1
        top = ".".join([names[logical_id], *path.split(".")[:2]])
        if not any(line.startswith(top) for line in differences(sound, facts(mutant, values))):
            silent.append(f"{logical_id}.{path}")
    print(f"{tried} values changed, one at a time")
    assert tried > 500
    assert silent == []


def tag_by_name(resource: dict[str, Any], path: str) -> str:
    """Tags are known by their keys: Properties.Tags.Owner, not Properties.Tags.1.Value."""
    match path.split("."):
        case ["Properties", "Tags", index, _, *_]:
            return f"Properties.Tags.{resource['Properties']['Tags'][int(index)]['Key']}"
    return path


@pytest.mark.parametrize("answers", SHAPES, ids=label)
def test_a_missing_resource_is_reported_by_name(
    answers: dict[str, str], cloudformation: Make, project_for: Callable[..., BakedProject]
) -> None:
    values = values_of(project_for(deploy_target=FIRST, **answers), STAGES[0])
    template = cloudformation(FIRST, STAGES[0], **answers)
    names = canonical_names(template["Resources"])
    sound = facts(template, values)
    for logical_id in template["Resources"]:
        lacking = {**template, "Resources": dict(template["Resources"])}
        del lacking["Resources"][logical_id]
        found = differences(sound, facts(lacking, values))
        assert any(line.startswith(f"{names[logical_id]}.") for line in found), logical_id
