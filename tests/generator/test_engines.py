"""cookiecutter and copier make the same service, byte for byte, from every set of answers."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..baking import SCRIPTS, BakedProject, Template, combinations, described, offered

CHOICES = offered()
AWKWARD = {
    "project_name": "Bob's Größen & 口座 \N{MATHEMATICAL SCRIPT CAPITAL S} 😀: # $HOME %s <b>",
    "project_slug": "z" * 40,
    "description": "Größen, 口座 \N{MATHEMATICAL SCRIPT CAPITAL S}𠮷 😀; it's: - # & * ! | > % @ $x ~ "
    + "and a long line " * 8
    + "too",
    "owner": "Zahlungsverkehr/Süd: team=a+b@example.com",
}
# Where each target tells the service's description and owner.
DEPLOYED = {"sam": "template.yaml", "cdk": "names.py", "serverless": "serverless.yml"}
SHORT = {"project_name": "yes", "project_slug": "a", "description": "0x1F", "owner": "1e3"}


def label(answers: dict[str, str]) -> str:
    kind = {"z" * 40: "awkward-", "a": "short-"}.get(answers.get("project_slug", ""), "")
    return kind + "-".join(answers[name] for name in CHOICES if name in answers)


def case(answers: dict[str, str]) -> Any:
    """A parameter, whose pair is made once (`--dist loadgroup`)."""
    together = pytest.mark.xdist_group(label(answers))
    return pytest.param(answers, marks=together, id=label(answers))


ANSWERS = [
    *combinations(CHOICES),
    *(
        {**texts, **files}
        for texts in (AWKWARD, SHORT)
        for files in combinations({name: CHOICES[name] for name in ("deploy_target", "example")})
    ),
]


@pytest.fixture(scope="module", params=map(case, ANSWERS))
def answers(request: pytest.FixtureRequest) -> dict[str, str]:
    chosen: dict[str, str] = request.param
    return chosen


@pytest.fixture(scope="module")
def pair(
    answers: dict[str, str], template: Template, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BakedProject, BakedProject]:
    """One set of answers through both programs, with the flags that users use."""
    output = tmp_path_factory.mktemp("pair")
    slug = answers.get("project_slug", "statement-service")
    first = template.here.cookiecutter(output / "cookiecutter", **answers)
    second = template.here.copier(output / "copier" / slug, **answers)
    assert first.returncode == second.returncode == 0, described(first) + described(second)
    return BakedProject(output / "cookiecutter" / slug), BakedProject(output / "copier" / slug)


@pytest.fixture(scope="module")
def baked(pair: tuple[BakedProject, BakedProject]) -> BakedProject:
    return pair[0]


def test_equal(pair: tuple[BakedProject, BakedProject]) -> None:
    first, second = pair
    assert first.files() == second.files()
    assert first.directories() == second.directories()


def test_answers_are_recorded(baked: BakedProject, answers: dict[str, str]) -> None:
    recorded = yaml.safe_load(baked.read(".copier-answers.yml"))
    assert recorded["_commit"] == "v0.1.0"
    assert recorded["_src_path"] == "."
    assert {name: recorded[name] for name in answers} == answers
    assert not [name for name in recorded if name in {"cookiecutter", "reserved_names"}]


def test_no_template_language_is_left(baked: BakedProject) -> None:
    """A service has Jinja of its own, in blueprints/; nothing of the template's."""
    left = re.compile(rb"cookiecutter\.\w|_copier_|\{%-?\s*(raw|endraw)")
    assert not [name for name, (content, _) in baked.files().items() if left.search(content)]
    assert not [name for name in baked.files() if "{" in name or "cookiecutter" in name]


def test_no_directory_is_empty(baked: BakedProject) -> None:
    parents = {str(parent) for name in baked.files() for parent in Path(name).parents}
    assert baked.directories() <= parents


def test_no_file_is_empty_but_for_packages_and_markers(baked: BakedProject) -> None:
    empty = {Path(name).name for name, (content, _) in baked.files().items() if not content.strip()}
    assert empty <= {"__init__.py", "py.typed"}


def test_every_text_file_ends_in_one_line_break(baked: BakedProject) -> None:
    text = {name: content for name, (content, _) in baked.files().items() if content.strip()}
    assert not [
        name
        for name, content in text.items()
        if b"\0" not in content and (not content.endswith(b"\n") or content.endswith(b"\n\n"))
    ]


def test_formatted_and_clean_as_rendered(baked: BakedProject) -> None:
    """Whatever the package's name is: neither its length nor its place in the alphabet matters."""
    for command in (["format", "--check", "--diff"], ["check"]):
        process = subprocess.run(
            [SCRIPTS / "ruff", *command, "--no-cache", "."],
            cwd=baked.path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, described(process)


def test_every_format_reads_back(baked: BakedProject) -> None:
    for name in baked.files():
        if Path(name).suffix in PARSERS:
            read_back(Path(name).suffix, baked.read(name))


@functools.cache  # most files are the same in every service
def read_back(suffix: str, text: str) -> None:
    if text:
        PARSERS[suffix](text)


def test_the_texts_come_out_right(baked: BakedProject, answers: dict[str, str]) -> None:
    """In TOML, YAML, JSON and Python they read back as they were answered, wherever they stand."""
    recorded = yaml.safe_load(baked.read(".copier-answers.yml"))
    project = tomllib.loads(baked.read("pyproject.toml"))["project"]
    assert project["name"] == recorded["project_slug"]
    assert project["description"] == recorded["description"]
    package = recorded["project_slug"].replace("-", "_")
    docstring = ast.get_docstring(ast.parse(baked.read(f"src/{package}/__init__.py")))
    assert recorded["project_name"] in (docstring or "")
    deployed = answers.get("deploy_target", "sam")
    source = baked.read(f"deploy/{DEPLOYED[deployed]}")
    if deployed == "cdk":
        nodes = ast.walk(ast.parse(source))
        values = [node.value for node in nodes if isinstance(node, ast.Constant)]
    else:
        values = list(scalars(yaml.load(source, Loader=_CloudFormation)))
    assert any(recorded["description"] in str(value) for value in values)
    assert recorded["owner"] in values
    if answers.get("project_name") == AWKWARD["project_name"]:
        # Nowhere is half of it: every place that begins the name has the whole of it.
        for name, (content, _) in baked.files().items():
            begun, whole = (
                content.count(part.encode()) for part in ("Bob's Gr", AWKWARD["project_name"])
            )
            if Path(name).name != ".copier-answers.yml":
                assert begun == whole, name


class _CloudFormation(yaml.SafeLoader):
    """YAML with !Ref, !Sub and the like, read as plain values."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_CloudFormation.add_multi_constructor("!", _plain)

PARSERS: dict[str, Any] = {
    ".toml": tomllib.loads,
    ".json": json.loads,
    ".py": ast.parse,
    ".yaml": lambda text: yaml.load(text, Loader=_CloudFormation),
    ".yml": lambda text: yaml.load(text, Loader=_CloudFormation),
}


def scalars(value: Any) -> Any:
    if isinstance(value, dict):
        for inner in value.values():
            yield from scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    else:
        yield value
