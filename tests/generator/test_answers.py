"""Both engines accept and refuse the same answers, for the same reason, and leave nothing behind."""

from __future__ import annotations

import importlib.metadata
import json
import keyword
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from jinja2 import Environment
from packaging.requirements import Requirement

from ..baking import ROOT, TREE, BakedProject, Template, described

# How the sentence about a reserved name begins.
TAKEN = r"(\w+ is taken: [^\n]+, so )?"

DEFAULTS = {
    "project_name": "Statement Service",
    "project_slug": "statement-service",
    "description": "Works through a queue of jobs on AWS Lambda",
    "owner": "platform-team",
    "queue_type": "standard",
    "overflow": "fargate",
}

TEXTS_ALLOWED = [
    "a",
    "Bob's Statements, 100% (new) & more; <ok> $HOME #1 !?",
    "Überweisungen für Größen",
    "口座明細サービス",
    "Сервис выписок",
    "\N{MATHEMATICAL SCRIPT CAPITAL S}tatement 𠮷野家 😀",
    "123",
    "yes",
    "- a: b # c",
]
TEXTS_REFUSED = [
    "",
    " ",
    " leading",
    "trailing ",
    'a "quoted" word',
    "back`tick",
    "back\\slash",
    "a {brace",
    "brace} b",
    "{% if %}",
    "{{ cookiecutter }}",
    "{# c #}",
    "two\nlines",
    "line\n",
    "carriage\rreturn",
    "tab\there",
    "null\0",
    "escape\x1b[31m",
    "next\x85line",
    "line\u2028separator",
    "right\u202eleft",
    "zero\u200bwidth",
    "no\u00a0break",
    "\ufeffmark",
    "lone\ud800surrogate",
]
SLUGS_ALLOWED = [
    "x",
    "a1",
    "statement-service",
    "a-1-b2",
    "s" * 40,
    "jsons",
    "test-service",
    "types2",
    "our-aws-reports",
    "as-sm",
]
SLUGS_REFUSED = [
    "redis-server",
    "runsv",
    "python",
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "/abs",
    "a b",
    " a",
    "a ",
    "a\n",
    "a_b",
    "A",
    "Statement-Service",
    "1a",
    "-a",
    "a-",
    "a--b",
    "a.b",
    "ä",
    "s\u0131",
    "٣",
    "a'b",
    'a"b',
    "s" * 41,
    # Python's own words and modules
    *("class", "lambda", "match", "type", "json", "queue", "email", "py-compile", "annotationlib"),
    # dependencies, and what the service itself is made of
    *("boto3", "hiredis", "msgspec", "pydyf", "fpdf", "pytest", "yaml", "jinja2", "urllib3"),
    *("lambda-shim", "local-sqs", "procgroup", "tests", "src", "deploy", "vendor", "blueprints"),
    # YAML's and Windows' words
    *("true", "null", "no", "con", "lpt1"),
    # Parameter Store's own
    *("aws", "aws-reports", "awsome", "ssm", "ssm-x"),
]
OWNERS_ALLOWED = [
    "me",
    "Team A/B",
    "a_b.c:d/e=f+g-h@example.com",
    "Zahlungsverkehr Süd",
    "123",
    "yes",
]
OWNERS_REFUSED = [
    "",
    " a",
    "a ",
    "a, b",
    "it's",
    'a"b',
    "a{b",
    "a\nb",
    "a\n",
    "a\tb",
    "a\\b",
    "a" * 101,
]

ALLOWED = [
    *(("project_name", text) for text in [*TEXTS_ALLOWED, "n" * 60]),
    *(("project_slug", slug) for slug in SLUGS_ALLOWED),
    *(("description", text) for text in [*TEXTS_ALLOWED, "d" * 200, "\N{GRINNING FACE}" * 195]),
    *(("owner", owner) for owner in OWNERS_ALLOWED),
]
REFUSED = [
    *(("project_name", text) for text in [*TEXTS_REFUSED, "n" * 61]),
    *(("project_slug", slug) for slug in SLUGS_REFUSED),
    *(("description", text) for text in [*TEXTS_REFUSED, "d" * 201, "\N{GRINNING FACE}" * 196]),
    *(("owner", owner) for owner in OWNERS_REFUSED),
]

Hook = Callable[[dict[str, str]], list[str]]
Questions = Callable[[dict[str, str]], str]


def hook_names(answers: dict[str, str] = DEFAULTS) -> dict[str, Any]:
    """The names that hooks/pre_gen_project.py defines, rendered with the answers as cookiecutter does."""
    source = (ROOT / "hooks" / "pre_gen_project.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "hook"}
    exec(Environment().from_string(source).render(cookiecutter=answers), names)
    return names


@pytest.fixture(scope="module")
def ask_cookiecutter() -> Hook:
    """The sentences with which cookiecutter's hook refuses some answers."""

    def ask(answers: dict[str, str]) -> list[str]:
        names = hook_names(DEFAULTS | answers)
        sentences: list[str] = names["problems"](names["ANSWERS"])
        return sentences

    return ask


@pytest.fixture(scope="module")
def ask_copier(tmp_path_factory: pytest.TempPathFactory) -> Questions:
    """The sentence with which copier refuses some answers; "" if it takes them."""
    template = tmp_path_factory.mktemp("questions")
    (template / "copier.yml").write_bytes((ROOT / "copier.yml").read_bytes())
    (template / TREE).mkdir()

    def ask(answers: dict[str, str]) -> str:
        try:
            copier.run_copy(
                str(template),
                template / "project",
                data=DEFAULTS | answers,
                defaults=True,
                pretend=True,
                quiet=True,
            )
        except ValueError as error:
            return str(error)
        return ""

    return ask


def ids(cases: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}={ascii(value)[1:-1][:40]}" for name, value in cases]


@pytest.mark.parametrize(("name", "value"), ALLOWED, ids=ids(ALLOWED))
def test_allowed(name: str, value: str, ask_cookiecutter: Hook, ask_copier: Questions) -> None:
    assert ask_cookiecutter({name: value}) == []
    assert ask_copier({name: value}) == ""


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=ids(REFUSED))
def test_refused_with_one_sentence(
    name: str, value: str, ask_cookiecutter: Hook, ask_copier: Questions
) -> None:
    (sentence,) = ask_cookiecutter({name: value})
    assert re.fullmatch(rf"{TAKEN}{name} must [^\n]+\.", sentence)
    assert ask_copier({name: value}) == f"Validation error for question '{name}': {sentence}"


def test_a_fifo_queue_has_no_overflow(ask_cookiecutter: Hook, ask_copier: Questions) -> None:
    answers = {"queue_type": "fifo", "overflow": "fargate"}
    (sentence,) = ask_cookiecutter(answers)
    assert sentence == (
        "overflow must be none with a FIFO queue: a job that finishes elsewhere lets the rest of "
        "its message group overtake it."
    )
    assert ask_copier(answers) == f"Validation error for question 'overflow': {sentence}"


def test_another_overflow_is_refused(ask_cookiecutter: Hook, ask_copier: Questions) -> None:
    (sentence,) = ask_cookiecutter({"overflow": "lambda"})
    assert sentence == "overflow must be fargate or none."
    assert "overflow" in ask_copier({"overflow": "lambda"})


def test_each_bad_answer_has_its_sentence(ask_cookiecutter: Hook) -> None:
    bad = {"project_name": "", "project_slug": "", "description": "", "owner": ""}
    sentences = ask_cookiecutter(bad)
    assert [sentence.split()[0] for sentence in sentences] == list(bad)


def test_both_engines_reserve_the_same_names() -> None:
    questions = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
    listed = questions["reserved_names"]["default"].split()
    assert set(listed) == hook_names()["RESERVED_NAMES"]
    assert len(listed) == len(set(listed))


def test_python_and_the_layout_are_reserved() -> None:
    listed = hook_names()["RESERVED_NAMES"]
    lower = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
    words = {*keyword.kwlist, *keyword.softkwlist, *sys.stdlib_module_names}
    tree = ROOT / TREE
    words |= {path.name for path in tree.iterdir() if path.is_dir()}
    words |= {path.name for path in (tree / "vendor").iterdir() if path.is_dir()}
    assert {word for word in words if lower.fullmatch(word)} <= listed


def test_dependencies_are_reserved(bake: Callable[..., BakedProject]) -> None:
    """Every distribution that a service needs, and every module it installs, as far as known here."""
    listed = hook_names()["RESERVED_NAMES"]
    needed = set()
    for example in ("statements", "minimal"):
        for path in bake(example=example).path.rglob("pyproject.toml"):
            project = tomllib.loads(path.read_text(encoding="utf-8"))
            groups = project.get("dependency-groups", {})
            groups["shipped"] = project["project"].get("dependencies", [])
            needed |= closure(Requirement(line) for group in groups.values() for line in group)
    modules = {
        module.lower()
        for module, distributions in importlib.metadata.packages_distributions().items()
        if needed & {normal(distribution) for distribution in distributions}
    }
    lower = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
    assert {"msgspec", "hiredis", "pytest"} <= needed
    assert sorted(name for name in needed | modules if lower.fullmatch(name)) == sorted(
        name for name in needed | modules if name in listed
    )


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "_", distribution).lower()


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """The requirements' names and those of all they need, where installed."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [Requirement(line) for line in lines]
    return found


# --- through the real programs --------------------------------------------------------------------

ODD_SLUGS = ["json", "a b", "a/b", "a/b/c", "../x", "../x/y", "-a"]


@pytest.mark.parametrize("slug", ODD_SLUGS)
def test_cookiecutter_leaves_nothing_behind(slug: str, template: Template, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    process = template.cookiecutter(output, project_slug=slug)
    assert process.returncode == 1
    assert re.fullmatch(rf"{TAKEN}project_slug must [^\n]+\.\n", process.stderr)
    assert list(tmp_path.rglob("*")) == [output]


@pytest.mark.parametrize("place", ["new", "new/newer"])
@pytest.mark.parametrize("slug", ["json", "a/b", "../b"])
def test_cookiecutter_leaves_no_output_directory_behind_that_it_made(
    slug: str, place: str, template: Template, tmp_path: Path
) -> None:
    assert template.cookiecutter(tmp_path / place, project_slug=slug).returncode == 1
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("text", ["{{ 1 + 1 }}", "a {# hidden #} b", "{% raw %}x{% endraw %}"])
def test_cookiecutter_refuses_jinja_although_it_renders_it(
    text: str, template: Template, tmp_path: Path
) -> None:
    process = template.cookiecutter(tmp_path / "output", description=text, project_slug=f"a{text}")
    assert process.returncode == 1
    assert re.fullmatch(
        r"project_slug must be [^\n]+\.\ndescription must not hold [^\n]+, braces, [^\n]+\.\n",
        process.stderr,
    )
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("slug", ["", ".", ".."])
def test_cookiecutter_itself_refuses_a_slug_that_is_no_new_directory(
    slug: str, template: Template, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    process = template.cookiecutter(output, project_slug=slug)
    assert process.returncode == 1
    assert re.fullmatch(r'Error: "[^\n]+" directory already exists\n', process.stdout)
    assert list(tmp_path.rglob("*")) == [output]


@pytest.mark.parametrize("slug", ["a/b", "a/a2/b"])
def test_cookiecutter_keeps_what_was_there(slug: str, template: Template, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert template.cookiecutter(tmp_path, project_slug=slug).returncode == 1
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_cookiecutter_keeps_a_project_that_it_was_to_overwrite(
    template: Template, tmp_path: Path
) -> None:
    mine = tmp_path / "json" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    os.utime(mine.parent, (0, 0))  # as a project that was made some time ago
    process = template.cookiecutter(tmp_path, "--overwrite-if-exists", project_slug="json")
    assert process.returncode == 1
    assert list(tmp_path.rglob("*")) == [mine.parent, mine]


def test_copier_leaves_nothing_behind(template: Template, tmp_path: Path) -> None:
    process = template.copier(tmp_path / "project", project_slug="json")
    assert process.returncode != 0
    assert "json is taken: Python, a dependency, a program" in process.stderr
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("choice", ["terraform", ""])
def test_what_is_not_offered_is_refused(choice: str, template: Template, tmp_path: Path) -> None:
    first = template.cookiecutter(tmp_path, deploy_target=choice)
    second = template.copier(tmp_path / "project", deploy_target=choice)
    assert first.returncode != 0, described(first)
    assert second.returncode != 0, described(second)
    assert list(tmp_path.rglob("*")) == []


def test_questions_are_the_same() -> None:
    """Names, order, defaults and choices."""
    first = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    second = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
    visible = {
        name: question
        for name, question in second.items()
        if not name.startswith("_") and question.get("when") is not False
    }
    assert list(visible) == [name for name in first if not name.startswith("_")]
    assert set(first["__prompts__"]) == set(visible)
    for name, question in visible.items():
        prompt = first["__prompts__"][name]
        if isinstance(first[name], list):
            labels = {value: label for label, value in question["choices"].items()}
            assert list(labels) == first[name]
            assert question["default"] == first[name][0]
            assert {"__prompt__": question["help"], **labels} == prompt
        else:
            assert question["help"] == prompt
    # A choice that depends on another answer is a text for cookiecutter.
    default = first["overflow"].replace("cookiecutter.", "")
    assert default == visible["overflow"]["default"]
    assert visible["project_name"]["default"] == first["project_name"]
    assert visible["description"]["default"] == first["description"]
    assert visible["owner"]["default"] == first["owner"]


@pytest.mark.parametrize("queue_type", ["standard", "fifo"])
def test_the_overflow_follows_the_queue(
    queue_type: str, template: Template, tmp_path: Path
) -> None:
    first = template.here.cookiecutter(tmp_path, queue_type=queue_type)
    second = template.here.copier(tmp_path / "copier", queue_type=queue_type)
    assert first.returncode == second.returncode == 0, described(first) + described(second)
    answers = (tmp_path / "statement-service" / ".copier-answers.yml").read_text(encoding="utf-8")
    assert answers == (tmp_path / "copier" / ".copier-answers.yml").read_text(encoding="utf-8")
    overflow = {"standard": "fargate", "fifo": "none"}[queue_type]
    assert yaml.safe_load(answers)["overflow"] == overflow


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Statement Service", "statement-service"),
        ("Bob's  Big-Job (2)", "bobs-big-job-2"),
        ("Größe", "gre"),
        ("口座", "my-service"),
    ],
)
def test_the_slug_follows_the_name(
    name: str, slug: str, template: Template, tmp_path: Path
) -> None:
    first = template.here.cookiecutter(tmp_path, project_name=name)
    second = template.here.copier(tmp_path / "copier", project_name=name)
    assert first.returncode == second.returncode == 0, described(first) + described(second)
    answers = (tmp_path / slug / ".copier-answers.yml").read_text(encoding="utf-8")
    assert answers == (tmp_path / "copier" / ".copier-answers.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(answers)["project_slug"] == slug


@pytest.mark.parametrize("deploy_target", ["sam", "cdk", "serverless"])
@pytest.mark.parametrize("queue_type", ["standard", "fifo"])
def test_other_services_can_attach_to_a_standard_dead_letter_queue_only(
    bake: Callable[..., BakedProject], deploy_target: str, queue_type: str
) -> None:
    """On-failure destinations take no FIFO queue; and only a standard queue keeps the enqueue time."""
    answers = {"overflow": "none"} if queue_type == "fifo" else {}
    project = bake(deploy_target=deploy_target, queue_type=queue_type, **answers)
    text = "".join(path.read_text("utf-8") for path in project.path.glob("deploy/*"))
    assert ("FailureQueueArn" in text) == (queue_type == "standard")
    assert ("keeps its enqueue time" in text) == (queue_type == "standard")
