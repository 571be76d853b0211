"""Dependencies point inwards: shims and adapters know the core, never the other way round."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = "{{ cookiecutter.__package_name }}"
SOURCE = PROJECT / "src" / PACKAGE
VENDOR = {"lambda_shim", "local_sqs", "procgroup"}

# What each layer may import of this project and its engine; the standard library and the
# service's own libraries go without saying, except in the core.
ALLOWED = {
    "core": {"core", "lambda_shim.contract", "lambda_shim.messages"},
    "adapters": {"core", "adapters", "lambda_shim", "local_sqs"},
    "shims": {"core", "adapters", "shims", "lambda_shim", "local_sqs", "procgroup"},
    "overflow": {"core", "shims", "overflow", "lambda_shim", "local_sqs"},
}
NEVER_IN_THE_CORE = {
    *("boto3", "botocore", "hiredis", "redis", "valkey"),
    *("socket", "ssl", "http.client", "urllib.request", "smtplib", "ftplib"),
}
# By which a file could import what its import statements do not show.
HIDDEN = {"importlib", "runpy", "__import__", "exec", "eval"}


def imports(path: Path, package: tuple[str, ...]) -> set[str]:
    """Every module that a file imports, in absolute dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_only_what_it_may(layer: str) -> None:
    allowed = {
        part if part.split(".")[0] in VENDOR else f"{PACKAGE}.{part}" for part in ALLOWED[layer]
    }
    for path in (SOURCE / layer).rglob("*.py"):
        package = (PACKAGE, *path.relative_to(SOURCE).parent.parts)
        ours = {name for name in imports(path, package) if name.split(".")[0] in {PACKAGE, *VENDOR}}
        bad = {name for name in ours if not within(name, allowed)}
        assert not bad, f"{path.relative_to(PROJECT)} imports {', '.join(sorted(bad))}"


@pytest.mark.parametrize("package", sorted(VENDOR))
def test_vendored_packages_know_neither_each_other_nor_the_service(package: str) -> None:
    strangers = (VENDOR - {package}) | {PACKAGE}
    for path in (PROJECT / "vendor" / package / package).rglob("*.py"):
        names = imports(path, (package,))
        bad = {name for name in names if name.split(".")[0] in strangers}
        assert not bad, f"{path.relative_to(PROJECT)} imports {', '.join(sorted(bad))}"


def loaded_by(module: str) -> set[str]:
    """Everything that importing a module loads, in a fresh interpreter."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_core_imports_neither_aws_nor_redis_nor_the_network() -> None:
    """Anywhere in a file, functions included; and nothing that it imports does so for it."""
    for path in (SOURCE / "core").rglob("*.py"):
        package = (PACKAGE, *path.relative_to(SOURCE).parent.parts)
        bad = {name for name in imports(path, package) if within(name, NEVER_IN_THE_CORE | HIDDEN)}
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        bad |= {node.id for node in nodes if isinstance(node, ast.Name)} & HIDDEN
        assert not bad, f"{path.relative_to(PROJECT)} imports {', '.join(sorted(bad))}"
        module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        assert loaded_by(module.removesuffix(".__init__")).isdisjoint(NEVER_IN_THE_CORE)


def test_the_lambda_handler_loads_neither_boto3_nor_the_local_queue() -> None:
    loaded = loaded_by(f"{PACKAGE}.shims.aws_lambda")
    assert loaded.isdisjoint({"boto3", "botocore", "local_sqs", "hiredis", "procgroup"})


def test_the_dispatcher_knows_nothing_of_the_service() -> None:
    """So that no deployment of broken jobs keeps failed messages from being put on record."""
    path = SOURCE / "overflow" / "dispatcher.py"
    names = imports(path, (PACKAGE, "overflow"))
{%- if cookiecutter.overflow == 'fargate' %}
    assert {name for name in names if within(name, {PACKAGE})} == {f"{PACKAGE}.overflow.REGISTRY"}
{%- else %}
    assert not {name for name in names if within(name, {PACKAGE})}
{%- endif %}
    assert not {name for name in loaded_by(f"{PACKAGE}.overflow") if within(name, VENDOR)}
{%- if cookiecutter.overflow == 'fargate' %}


def test_the_runner_loads_the_jobs_only_with_a_record_in_hand() -> None:
    loaded = loaded_by(f"{PACKAGE}.overflow.runner")
    assert not {name for name in loaded if within(name, {f"{PACKAGE}.core", f"{PACKAGE}.shims"})}
    assert loaded.isdisjoint({"boto3", "botocore", "local_sqs", "hiredis", "procgroup"})
{%- endif %}
