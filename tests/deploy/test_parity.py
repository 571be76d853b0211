"""Whichever tool a team picks, it gets the same infrastructure; made by the real tools."""

from __future__ import annotations

import ast
import copy
import json
import re
import runpy
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse

from ..baking import ROOT, SCRIPTS, TREE, BakedProject, described
from .conftest import CASES, SHAPES, TARGETS, Make, label
from .parity import (
    Facts,
    Template,
    canonical_names,
    differences,
    facts,
    is_noise,
    leaves,
    noise_report,
)
from .tools import CACHE, STAGES, run, samconfig_parameters

pytestmark = pytest.mark.together

FIRST, *OTHERS = TARGETS


def defaults_of(template: Template) -> dict[str, str]:
    return {
        name: parameter["Default"]
        for name, parameter in template.get("Parameters", {}).items()
        if "Default" in parameter
    }


def values_of(project: BakedProject, template: Template, stage: str) -> dict[str, str]:
    """What a deployment of this stage fills in, in every target alike."""
    return {
        **defaults_of(template),
        **samconfig_parameters(project, stage),
        "AWS::StackName": f"statement-service-{stage}",
    }


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
    template = cloudformation(FIRST, stage, **answers)
    values = values_of(project_for(deploy_target=FIRST, **answers), template, stage)
    one = facts(template, values)
    template = cloudformation(target, stage, **answers)
    other = facts(template, {**values, **defaults_of(template)})
    print(f"{len(one)} facts compared. Not compared:\n{noise_report()}")
    assert len(one) > 500
    found = differences(one, other)
    assert not found, "\n".join([f"left is {FIRST}, right is {target}:", *found])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_cfn_lint_has_nothing_to_say(
    target: str, cloudformation: Make, project_for: Callable[..., BakedProject], tmp_path: Path
) -> None:
    """As in `make validate`, which leaves out what its target explains."""
    with_all = {"example": "statements", "queue_type": "standard", "overflow": "fargate"}
    bare_fifo = {"example": "minimal", "queue_type": "fifo", "overflow": "none"}
    chosen = [answers for answers in SHAPES if answers.items() >= with_all.items()]
    chosen += [answers for answers in SHAPES if answers.items() >= bare_fifo.items()]
    assert len(chosen) >= 2
    for number, answers in enumerate(chosen):
        made = cloudformation(target, STAGES[0], **answers)
        (tmp_path / f"{number}.json").write_text(json.dumps(made, ensure_ascii=False), "utf-8")
    said = project_for(deploy_target=target, **chosen[0]).read("tools/target.py")
    (ignored,) = re.findall(r"^IGNORED_LINTS.* = (\[.*\])$", said, re.MULTILINE)
    options = [f"--ignore-checks={rule}" for rule in ast.literal_eval(ignored)]
    files = sorted(path.name for path in tmp_path.iterdir())
    process = run(str(SCRIPTS / "cfn-lint"), *options, "--", *files, directory=tmp_path)
    assert process.returncode == 0, described(process)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_permission_is_for_everything_that_could_name_its_resources(
    target: str, cloudformation: Make
) -> None:
    with_all = {"example": "statements", "queue_type": "standard", "overflow": "fargate"}
    (answers,) = (answers for answers in SHAPES if answers.items() >= with_all.items())
    template = cloudformation(target, STAGES[1], **answers)
    roles = [each for each in template["Resources"].values() if each["Type"] == "AWS::IAM::Role"]
    assert {
        action
        for statement in statements(roles)
        if statement.get("Resource") in ("*", ["*"])  # who trusts a role names none
        for action in each_of(statement["Action"])
    } == {"xray:PutTraceSegments", "xray:PutTelemetryRecords", "ecr:GetAuthorizationToken"}


def statements(value: Any) -> Iterator[dict[str, Any]]:
    """Those of policies, conditional ones too."""
    match value:
        case {"Effect": _}:
            yield value
        case dict() | list():
            for inner in value.values() if isinstance(value, dict) else value:
                yield from statements(inner)


def each_of(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.slow
def test_checkov_says_what_is_explained_and_of_those_resources(
    cloudformation: Make, project_for: Callable[..., BakedProject], tmp_path: Path
) -> None:
    """No rule is skipped that would say nothing, nor would speak of something else."""
    with_all = {"example": "statements", "queue_type": "standard", "overflow": "fargate"}
    bare = {"example": "minimal", "queue_type": "standard", "overflow": "none"}
    chosen = [answers for answers in SHAPES if answers.items() >= with_all.items()][:1]
    chosen += [answers for answers in SHAPES if answers.items() >= bare.items()][:1]
    explained: dict[tuple[int, str], set[str]] = {}
    names: dict[int, dict[str, str]] = {}
    cases = [(FIRST, chosen[1]), *((target, chosen[0]) for target in TARGETS)]
    for number, (target, answers) in enumerate(cases):
        stage = STAGES[answers["overflow"] == "fargate"]  # with subnets, where there may be any
        project = project_for(deploy_target=target, **answers)
        made = cloudformation(target, stage, **answers)
        (tmp_path / f"{number}.json").write_text(json.dumps(made, ensure_ascii=False), "utf-8")
        names[number] = canonical_names(made["Resources"])
        skipped = re.findall(r"(?m)^  - (\w+) # (.+)$", project.read("deploy/checkov.yaml"))
        explained |= {(number, rule): set(said.split(", ")) for rule, said in skipped}
    found: dict[tuple[int, str], set[str]] = {}
    for finding in checkov(project.read("tools/validate.py"), tmp_path):
        number = int(Path(finding["file_path"]).stem)
        resource = finding["resource"].rpartition(".")[2]
        found.setdefault((number, finding["check_id"]), set()).add(names[number][resource])
    assert found == explained


def checkov(validate: str, templates: Path) -> list[dict[str, Any]]:
    """All that the version named in tools/validate.py finds, nothing skipped."""
    (pinned,) = re.findall(r'(?m)^CHECKOV = "(.*)"$', validate)
    process = run(
        *("sh", str(ROOT / TREE / "tools" / "uv.sh"), "tool", "run", "--quiet"),
        *("--python", ">=3.11,<3.14", "--from", pinned, "checkov", "--directory", "."),
        *("--framework", "cloudformation", "--quiet", "--output", "json", "--soft-fail"),
        *("--output-file-path", "findings"),
        directory=templates,
        UV_HOME=str(CACHE / "uv"),
        LOG_LEVEL="ERROR",
    )
    assert process.returncode == 0, described(process)
    said = json.loads((templates / "findings" / "results_json.json").read_text("utf-8"))
    found: list[dict[str, Any]] = said["results"]["failed_checks"]
    return found


def mutants(template: Template) -> Iterator[tuple[str, str, str, Template]]:
    """The template with one value changed: of every resource, condition and output in turn.

    Yields the section, the logical id, the path of the value and the changed template.
    """
    for section in ("Resources", "Conditions", "Outputs"):
        for logical_id, entry in template.get(section, {}).items():
            for path, value in leaves(entry):
                way = [section, logical_id, *joined(entry, path)]
                yield section, logical_id, path, with_value(template, way, changed(value))


def with_value(template: Template, way: list[Any], value: Any) -> Template:
    """The template with another value at the end of this way down."""
    section, logical_id, *keys, last = way
    place = changing = copy.deepcopy(template[section][logical_id])
    for key in keys:
        place = place[key]
    place[last] = value
    return {**template, section: {**template[section], logical_id: changing}}


def joined(place: Any, path: str) -> Iterator[Any]:
    """The keys on the way down; a key may hold dots itself."""
    rest = path.split(".")
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


@pytest.fixture(params=SHAPES, ids=label)
def sound(
    request: pytest.FixtureRequest, cloudformation: Make, project_for: Callable[..., BakedProject]
) -> tuple[Template, list[tuple[dict[str, str], Facts]]]:
    """A shape's template, with the values of each stage and the facts that come of them.

    What is only there with subnets is seen in the one stage, what is only there without them in
    the other.
    """
    answers = request.param
    project = project_for(deploy_target=FIRST, **answers)
    template = cloudformation(FIRST, STAGES[0], **answers)
    stages = [stage for case, stage in CASES if case == answers]
    values = [values_of(project, template, stage) for stage in stages]
    return template, [(each, facts(template, each)) for each in values]


def test_every_changed_value_is_reported_by_name(
    sound: tuple[Template, list[tuple[dict[str, str], Facts]]],
) -> None:
    template, stages = sound
    names = canonical_names(template["Resources"])
    tried, silent = 0, []
    for section, logical_id, path, mutant in mutants(template):
        only = logical_id if section == "Resources" else None
        if only and is_noise(*placed(template["Resources"][only], path)):
            continue
        tried += 1
        top = f"{names[only]}." if only else ""
        found = [
            line
            for values, known in stages
            for line in differences(below(top, known), facts(mutant, values, only))
        ]
        if section == "Conditions":  # told by what is there because of it, or is not
            told = bool(found)
        else:
            path_told = (top or rf"Outputs\.{logical_id}\.") + reported(path)
            told = any(re.match(rf"{path_told}[.:]", line) for line in found)
        if not told:
            silent.append(f"{logical_id}.{path}: {found}")
    print(f"{tried} values changed, one at a time")
    assert tried > 500
    assert silent == []


def below(top: str, known: Facts) -> Facts:
    """The facts whose names begin so."""
    return {name: fact for name, fact in known.items() if name.startswith(top)}


def reported(path: str) -> str:
    """How the report names a value of a template; a regular expression.

    Functions count as the one value they make, the order of a list may change, and lists of pairs
    are known by their keys.
    """
    path = re.sub(r"(^|\.)(Fn::|Ref($|\.)).*", "", path)
    path = re.sub(r"(Tags|Dimensions|Environment)\.\d.*", r"\1", path)
    return re.sub(r"\\\.\d+", r"\.\\d+", re.escape(path))


def placed(resource: dict[str, Any], path: str) -> tuple[str, str]:
    """A value's resource type and path as facts have them: a tag is known by its key."""
    match path.split("."):
        case ["Properties", "Tags", index, _, *_]:
            path = f"Properties.Tags.{resource['Properties']['Tags'][int(index)]['Key']}"
    return resource["Type"], path


def test_a_missing_resource_is_reported_by_name(
    sound: tuple[Template, list[tuple[dict[str, str], Facts]]],
) -> None:
    template, stages = sound
    values, known = stages[-1]
    names = canonical_names(template["Resources"])
    for logical_id in template["Resources"]:
        lacking = {**template, "Resources": dict(template["Resources"])}
        del lacking["Resources"][logical_id]
        found = differences(known, facts(lacking, values))
        assert any(line.startswith(f"{names[logical_id]}.") for line in found), logical_id


def test_an_added_resource_is_reported(
    sound: tuple[Template, list[tuple[dict[str, str], Facts]]],
) -> None:
    """Whichever of the two stands first, and also where both would have one name."""
    template, stages = sound
    values, known = stages[-1]
    resources = template["Resources"]
    for logical_id in resources:
        added = {"Added": resources[logical_id]}
        for more in ({**added, **resources}, {**resources, **added}):
            assert differences(known, facts({**template, "Resources": more}, values)), logical_id


@pytest.mark.parametrize("section", ["Rules", "Mappings", "Hooks", "Transform"])
def test_a_section_that_no_other_has_is_reported_by_name(
    section: str, cloudformation: Make
) -> None:
    template = cloudformation(FIRST, STAGES[0], **SHAPES[0])
    values = defaults_of(template)
    known = facts(template, values)
    found = differences(known, facts({**template, section: {"Never": {"Says": "no"}}}, values))
    assert found == [f"{section}.Never.Says: only right: 'no'"]


def texts(value: Any) -> Iterator[tuple[list[Any], str]]:
    """Every reference with the way to it, as the text of one whose function was forgotten."""
    match value:
        case {"Ref": str(name)}:
            yield [], f"${{{name}}}"
        case {"Fn::GetAtt": [str(name), str(attribute)]}:
            yield [], f"${{{name}.{attribute}}}"
        case {"Fn::Sub": str(pattern)} | {"Fn::Sub": [str(pattern), _]} if "${" in pattern:
            yield [], pattern
        case dict() | list():
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                for way, text in texts(inner):
                    yield [key, *way], text


def test_a_reference_that_is_but_text_is_reported(
    sound: tuple[Template, list[tuple[dict[str, str], Facts]]],
) -> None:
    template, stages = sound
    names = canonical_names(template["Resources"])
    tried, silent = 0, []
    for logical_id, resource in template["Resources"].items():
        top = f"{names[logical_id]}."
        for way, text in texts(resource):
            if is_noise(resource["Type"], ".".join(map(str, way))):
                continue
            tried += 1
            mutant = with_value(template, ["Resources", logical_id, *way], text)
            if not any(
                differences(below(top, known), facts(mutant, values, logical_id))
                for values, known in stages
            ):
                silent.append(f"{logical_id}.{way}: {text}")
    print(f"{tried} references made text, one at a time")
    assert tried > 100
    assert silent == []


def test_a_pair_that_is_there_twice_is_reported() -> None:
    for key, name in (("Tags", "Key"), ("Dimensions", "Name")):
        pairs = [{name: "Stage", "Value": "dev"}]
        properties = {key: pairs}
        one: Template = {"Resources": {"Queue": {"Type": "x", "Properties": properties}}}
        known = facts(one, {})
        properties[key] = [{name: "Stage", "Value": "other"}, *pairs]
        assert differences(known, facts(one, {}))
        properties[key] = [*pairs, *pairs]
        assert differences(known, facts(one, {}))


def settings(target: str, project: BakedProject, stage: str | None) -> dict[str, str]:
    """A stage's settings, by names without case; with None, what they are where a stage is silent."""
    found: dict[str, Any]
    if target == "sam":
        template = yaml_parse(project.read("deploy/template.yaml"))
        found = defaults_of(template) | (samconfig_parameters(project, stage) if stage else {})
        del found["Stage"]
    elif target == "cdk":
        made = runpy.run_path(str(project.path / "deploy" / "stages.py"))
        found = asdict(made["STAGES"][stage] if stage else made["Stage"]("new"))
        del found["name"]
    else:
        params = yaml_parse(project.read("deploy/serverless.yml"))["params"]
        found = params["default"] | (params[stage] if stage else {})
    # `make deploy` gives the image's tag, in each target its own way.
    return {
        name.replace("_", "").lower(): ",".join(value)
        if isinstance(value, tuple)
        else str(value).lower()
        for name, value in found.items()
        if name.lower() != "imagetag"
    }


@pytest.mark.parametrize("stage", ["dev", "staging", "production", None])
@pytest.mark.parametrize("target", OTHERS)
def test_each_stage_has_the_same_settings(
    target: str, stage: str | None, project_for: Callable[..., BakedProject]
) -> None:
    answers = {"example": "statements", "overflow": "fargate"}
    one = settings(FIRST, project_for(deploy_target=FIRST, **answers), stage)
    other = settings(target, project_for(deploy_target=target, **answers), stage)
    if stage is None:  # SAM wants these two told for every stage
        for name in ("customersurl", "mailfrom"):
            del other[name]
    assert one == other
