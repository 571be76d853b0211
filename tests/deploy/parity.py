"""Are two CloudFormation templates the same infrastructure?

A template becomes a set of facts, ``{"WorkQueue.Properties.VisibilityTimeout": 180, …}``. Whatever
is in a template is compared, except for what NOISE subtracts. Some spellings of one thing are made
one beforehand:

- Parameters have the values of one stage, as they have when CloudFormation works with them, and
  conditions are decided: a resource whose condition does not hold is not there.
- ``Ref``, ``Fn::GetAtt``, ``Fn::Sub`` and ``Fn::Join`` become text with ``${…}`` in it. Text that has
  that of its own, and so refers to nothing, becomes ``${!…}``, as ``Fn::Sub`` has it.
- In IAM, one item and a list of one are the same, and the order of actions, resources and
  statements means nothing; neither does the order of tags, of events and of a container's
  variables. JSON within text is taken apart.

Logical ids are the tools' own. A resource is known by the id its author chose, or, where a tool
made the id up, by its type and what it belongs to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Template = dict[str, Any]
Facts = dict[str, Any]


class Noise(NamedTuple):
    """A difference that is none.

    Attributes:
        type: of the resources it is about, or "template"; a regular expression.
        path: the facts it is about, below the resource or the template; a regular expression.
        why: for whoever reads the list.
    """

    type: str
    path: str
    why: str


NOISE = (
    Noise("AWS::CDK::Metadata", "", "usage statistics of the CDK, no infrastructure"),
    Noise(".*", "Metadata", "a tool's notes to itself"),
    Noise(".*", "DependsOn", "order that references do not give; the result is the same"),
    Noise("AWS::Lambda::Function", "Properties\\.Code", "where the tool uploaded the zip to"),
    Noise("AWS::Lambda::Function", "Properties\\.Tags\\.lambda:createdBy", "SAM's mark"),
    Noise("AWS::Lambda::Version", "Properties\\.CodeSha256", "osls's guard; the others' is the id"),
    Noise(
        "AWS::Lambda::Version",
        "Properties\\.Description",
        "SAM's way to publish when a parameter alone has changed; a repetition in osls",
    ),
    Noise(
        "AWS::Lambda::Version",
        "UpdateReplacePolicy",
        "of the CDK, which like osls makes a new version and replaces none; SAM replaces one when its "
        "description alone changes, and could keep it only together with the function",
    ),
    Noise("template", "AWSTemplateFormatVersion", "there is but one version"),
    Noise(
        "template", "Parameters", "their values are filled in; a test compares those of each stage"
    ),
    Noise("template", "Conditions", "they are decided; what hangs on them is compared"),
    Noise("template", "Rules\\.CheckBootstrapVersion", "of the CDK, about its own bootstrap stack"),
)
# Resources and outputs that a tool adds for its own uploads.
OWN = (
    Noise("AWS::S3::Bucket(Policy)?", "ServerlessDeploymentBucket(Policy)?", "osls uploads there"),
    Noise("output", "ServerlessDeploymentBucketName", "osls tells where it uploads"),
    Noise("output", "WorkerLambdaFunctionQualifiedArn", "osls tells the version it made"),
)


def noise_report() -> str:
    """The whole list, for the test's output."""
    return "\n".join(f"{n.type} {n.path}: {n.why}" for n in (*NOISE, *OWN))


def is_noise(kind: str, path: str) -> bool:
    """True for a value that is not compared: at this path, in a resource of this type."""
    return any(
        re.fullmatch(noise.type, kind)
        and re.match(f"({noise.path})(\\.|$)" if noise.path else "", path)
        for noise in NOISE
    )


def facts(template: Template, values: Mapping[str, str], only: str | None = None) -> Facts:
    """What a template says, under names that do not depend on the tool.

    Args:
        template: CloudFormation, not SAM.
        values: parameters and pseudo parameters that have a value, such as AWS::StackName.
        only: a logical id: no more than this resource's facts.
    """
    held = conditions(template, values)
    resources = {
        name: resource
        for name, resource in existing(template, "Resources", held).items()
        if not any(
            re.fullmatch(own.type, resource["Type"]) and re.fullmatch(own.path, name) for own in OWN
        )
    }
    names = canonical_names(resources)

    def text(reference: str) -> str:
        name, dot, attribute = reference.partition(".")
        if name in values:
            return _literal(values[name])
        return f"${{{names.get(name, name)}{dot}{attribute}}}"

    def said(entry: Any) -> Iterator[tuple[str, Any]]:
        return leaves(ordered(plain(decided(entry, held), text)))

    found: Facts = {}
    for logical_id, resource in resources.items():
        if only in (None, logical_id):
            for path, value in said(resource):
                if not is_noise(resource["Type"], path):
                    found[f"{names[logical_id]}.{path}"] = value
    if only is not None:
        return found
    for name, output in existing(template, "Outputs", held).items():
        if not any(own.type == "output" and re.fullmatch(own.path, name) for own in OWN):
            for path, value in said(output):
                found[f"Outputs.{name}.{path}"] = value
    rest = {name: part for name, part in template.items() if name not in ("Resources", "Outputs")}
    for path, value in said(rest):
        if not is_noise("template", path):
            found[path] = value
    return found


def settled(template: Template, values: Mapping[str, str]) -> Template:
    """The template with its conditions worked out, as CloudFormation does with these values."""
    held = conditions(template, values)
    made = {
        section: {
            name: decided(entry, held) for name, entry in existing(template, section, held).items()
        }
        for section in ("Resources", "Outputs")
    }
    return {**template, **made}


def conditions(template: Template, values: Mapping[str, str]) -> dict[str, bool]:
    """Which of the template's conditions hold."""
    return {
        name: holds(condition, values) for name, condition in template.get("Conditions", {}).items()
    }


def existing(template: Template, section: str, held: Mapping[str, bool]) -> dict[str, Any]:
    """The entries whose condition holds, without it; one that is not defined stays, to be seen."""
    return {
        name: {key: part for key, part in entry.items() if key != "Condition" or part not in held}
        for name, entry in template.get(section, {}).items()
        if held.get(entry.get("Condition"), True)
    }


def holds(condition: Any, values: Mapping[str, str]) -> bool:
    """Whether a condition of a template holds, with these values of its parameters.

    Raises ValueError for kinds of conditions that services do not have.
    """
    match condition:
        case {"Fn::Equals": [one, other]}:
            return bool(operand(one, values) == operand(other, values))
        case {"Fn::Not": [inner]}:
            return not holds(inner, values)
    raise ValueError(f"not a condition that is known here: {condition!r}")


def operand(value: Any, values: Mapping[str, str]) -> Any:
    """What is compared in a condition: a text, or a parameter's value."""
    match value:
        case str():
            return value
        case {"Ref": name}:
            return values.get(name, value)
    raise ValueError(f"not an operand that is known here: {value!r}")


NOTHING = {"Ref": "AWS::NoValue"}


def decided(value: Any, held: Mapping[str, bool]) -> Any:
    """Each ``Fn::If`` and ``Fn::Select`` as what it chooses; what is NOTHING is left out."""
    match value:
        case {"Fn::If": [name, one, other]} if name in held:
            return decided(one if held[name] else other, held)
        case {"Fn::Select": [int(index), list(items)]}:
            return decided(items[index], held)
        case dict():
            inner = {key: decided(item, held) for key, item in value.items()}
            return {key: item for key, item in inner.items() if item != NOTHING}
        case list():
            return [item for item in (decided(item, held) for item in value) if item != NOTHING]
    return value


def differences(left: Facts, right: Facts) -> list[str]:
    """One line a fact that the two do not share, by name."""
    absent = object()
    lines = []
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name, absent), right.get(name, absent)
        if one is absent:
            lines.append(f"{name}: only right: {other!r}")
        elif other is absent:
            lines.append(f"{name}: only left: {one!r}")
        elif one != other or type(one) is not type(other):
            lines.append(f"{name}: {one!r} != {other!r}")
    return lines


def canonical_names(resources: Mapping[str, Any]) -> dict[str, str]:
    """A name for each logical id that does not depend on the tool."""
    names = {}
    for logical_id, resource in resources.items():
        if resource["Type"] == "AWS::Lambda::Function":
            names[logical_id] = logical_id.removesuffix("LambdaFunction")
        else:
            names[logical_id] = logical_id
        # The CDK appends a hash of the construct's path.
        names[logical_id] = re.sub(r"[0-9A-F]{8}$", "", names[logical_id])
    # Where a tool makes up the id: named by what it belongs to, one after the other.
    for kind, owner in BELONGS_TO:
        for logical_id, resource in resources.items():
            if resource["Type"] == kind:
                belongs_to = owner(logical_id, resources, names)
                if belongs_to:
                    names[logical_id] = f"{belongs_to}.{kind.rpartition('::')[2]}"
    return dict(zip(names, _apart(names.values()), strict=True))


def _apart(names: Iterable[str]) -> list[str]:
    """The names, in which none stands for two things: the second of a name is told apart."""
    found: list[str] = []
    for name in names:
        while name in found:
            name += " again"
        found.append(name)
    return found


def _referred(value: Any) -> str:
    """The logical id in a Ref or Fn::GetAtt; "" where it is neither."""
    match value:
        case {"Ref": name} | {"Fn::GetAtt": [name, *_]}:
            return str(name)
        case {"Fn::GetAtt": str(target)}:
            return target.partition(".")[0]
    return ""


# The name of what a resource belongs to; "" when it belongs to nothing.
Owner = Callable[[str, Mapping[str, Any], dict[str, str]], str]


def _by_property(key: str) -> Owner:
    def owner(logical_id: str, resources: Mapping[str, Any], names: dict[str, str]) -> str:
        return names.get(_referred(resources[logical_id]["Properties"][key]), "")

    return owner


def _by_alias(key: str) -> Owner:
    """The alias whose rollouts it governs."""

    def owner(logical_id: str, resources: Mapping[str, Any], names: dict[str, str]) -> str:
        for alias_id, alias in resources.items():
            update = alias.get("UpdatePolicy", {}).get("CodeDeployLambdaAliasUpdate", {})
            if update and _referred(update[key]) == logical_id:
                return names[alias_id]
        return ""

    return owner


BELONGS_TO: tuple[tuple[str, Owner], ...] = (
    ("AWS::Lambda::Version", _by_property("FunctionName")),
    ("AWS::Lambda::Alias", _by_property("FunctionName")),
    ("AWS::Lambda::EventSourceMapping", _by_property("EventSourceArn")),
    ("AWS::CodeDeploy::Application", _by_alias("ApplicationName")),
    ("AWS::CodeDeploy::DeploymentGroup", _by_alias("DeploymentGroupName")),
)


def plain(value: Any, text: Callable[[str], str]) -> Any:
    """Intrinsic functions as text; everything else as it is."""
    if isinstance(value, list):
        return [plain(item, text) for item in value]
    match value:
        case str():
            return _literal(value)
        case {"Ref": name} if len(value) == 1:
            return text(name)
        case {"Fn::GetAtt": target} if len(value) == 1:
            return text(".".join(target) if isinstance(target, list) else target)
        case {"Fn::Join": [separator, parts]} if len(value) == 1:
            return separator.join(plain(part, text) for part in parts)
        case {"Fn::Sub": [pattern, variables]} if len(value) == 1:
            given = {name: plain(inner, text) for name, inner in variables.items()}
            return _substituted(pattern, lambda name: given[name] if name in given else text(name))
        case {"Fn::Sub": pattern} if len(value) == 1:
            return _substituted(pattern, text)
        case dict():
            return {key: plain(inner, text) for key, inner in value.items()}
    return value


def _literal(text: str) -> str:
    """Text as it is told from a reference: as ``Fn::Sub`` writes it."""
    return re.sub(r"\$\{(?!!)", "${!", text)


def _substituted(pattern: str, text: Callable[[str], str]) -> str:
    return re.sub(r"\$\{([^!}]+)\}", lambda match: text(match[1]), pattern)


def ordered(value: Any, key: str = "") -> Any:
    """Lists whose order means nothing get one, and JSON within text is taken apart."""
    if isinstance(value, dict):
        return {name: ordered(inner, name) for name, inner in value.items()}
    if key in {"DashboardBody", "LifecyclePolicyText"}:
        try:
            return json.loads(value)
        except ValueError:
            return value
    if key in {"Action", "Resource", "Statement", "Service", "AWS"}:
        items = [ordered(item) for item in (value if isinstance(value, list) else [value])]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    if key == "Tags":
        return _by_name(value, "Key")
    if key == "Dimensions" or (key == "Environment" and isinstance(value, list)):
        return _by_name(value, "Name")
    if key == "Events":
        return sorted(value)
    if key == "Alarms":
        return sorted(value, key=lambda alarm: str(alarm["Name"]))
    if isinstance(value, list):
        return [ordered(item) for item in value]
    return value


def _by_name(pairs: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """A list of ``{key: …, "Value": …}`` as one object."""
    names = _apart(pair[key] for pair in pairs)
    rest = [{name: part for name, part in pair.items() if name != key} for pair in pairs]
    return {
        name: part["Value"] if part.keys() == {"Value"} else part
        for name, part in zip(names, rest, strict=True)
    }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path; empty objects and lists are values too."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{index}")
    else:
        yield path, value
