"""Finishes a new service: no empty directories, a link to its template, a word on what comes next.

cookiecutter renders this file, then runs it in the finished project. Nothing is fetched, installed
or reformatted here.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml  # cookiecutter's interpreter runs this, and cookiecutter depends on it

ANSWERS = json.loads(r"""{{ cookiecutter|tojson }}""")

# The service's directory in the template, spelled so that this file's own rendering leaves it.
TREE = "{" + "{cookiecutter.project_slug}" + "}"
PACKAGE = "{" + "{cookiecutter.__package_name}" + "}"

# A checkout may hold these in the template tree; copier.yml excludes the same.
CACHES = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}

ANSWERS_FILE = """\
# The answers this service was made from, and the template's version. `copier update` reads and
# rewrites this file: change an answer with `copier update --data`, not here.
"""

NEXT = """\
{name} is ready. Next:
  cd {directory}
  git init && git add --all && git commit --message 'Start from the template'
  make test
  make run"""

# Template addresses that copier takes as they are, or finds out about by their ending.
COPIER_KNOWS = (
    "gh:",
    "gl:",
    "git@",
    "git://",
    "git+",
    "https://github.com/",
    "https://gitlab.com/",
)


def template_directory() -> Path | None:
    """Where cookiecutter read the template from; None if that cannot be told.

    `_repo_dir` may be relative to the directory that cookiecutter was started in. While its hooks
    run, cookiecutter itself stands in the template, which Linux shows.
    """
    directory = Path(ANSWERS["_repo_dir"])
    if directory.is_absolute():
        return directory
    for place in (Path(f"/proc/{os.getppid()}/cwd"), Path(os.environ.get("PWD", ""), directory)):
        if (place / "cookiecutter.json").is_file():
            return place.resolve()
    return None


def git(directory: Path, *arguments: str) -> str:
    """What git prints, run in `directory`; "" if it fails or is not there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def is_git_checkout(directory: Path) -> bool:
    """Whether `directory` itself is one; not just a directory inside some other repository."""
    top = git(directory, "rev-parse", "--show-toplevel")
    return bool(top) and Path(top).resolve() == directory.resolve()


def template_address(directory: Path) -> str:
    """The template's address in words that copier understands; "" if it has none."""
    given = str(ANSWERS["_template"])
    if given.lower().endswith(".zip"):
        return ""
    if given == ANSWERS["_repo_dir"] or given.startswith(COPIER_KNOWS) or given.endswith(".git"):
        return given
    # An abbreviation or a kind of URL that only cookiecutter knows: its clone knows the whole.
    origin = git(directory, "remote", "get-url", "origin")
    if not origin or origin.startswith(COPIER_KNOWS) or origin.endswith(".git"):
        return origin
    return f"git+{origin}"


def link() -> tuple[dict[str, str], str]:
    """The template's version and address as copier records them, and a sentence on what is amiss.

    Both are what `copier copy` writes: a template outside git has an address but no version.
    """
    no_git = "The template is not a git checkout, so `copier update` cannot bring its later versions here."
    directory = template_directory()
    address = template_address(directory) if directory else ""
    if directory is None or not address:
        return {}, no_git
    if not is_git_checkout(directory):
        return {"_src_path": address}, no_git
    commit = git(directory, "describe", "--tags", "--always")
    if not commit:
        return {
            "_src_path": address
        }, "The template has no commit yet, so `copier update` cannot work."
    sentence = ""
    if address.startswith("."):
        sentence = (
            "Before the first `copier update`, put the template's git address into "
            f".copier-answers.yml:\n_src_path is the relative path {address} there."
        )
    return {"_commit": commit, "_src_path": address}, sentence


def write_answers(recorded: dict[str, str]) -> None:
    """Write .copier-answers.yml, byte for byte as copier does."""
    answers = {key: value for key, value in ANSWERS.items() if not key.startswith("_")}
    text = yaml.safe_dump(
        recorded | answers, indent=4, allow_unicode=True, default_flow_style=False
    )
    Path(".copier-answers.yml").write_text(ANSWERS_FILE + text, encoding="utf-8", newline="\n")


def tidy(tree: Path, package: str) -> None:
    """Remove what the chosen variants left empty, and what is not the template's.

    Looks only at directories that the template has: others are not this hook's to remove.
    """
    for place, _, _ in os.walk(tree, topdown=False):
        directory = Path(str(Path(place).relative_to(tree)).replace(PACKAGE, package))
        if directory.name in CACHES:
            shutil.rmtree(directory, ignore_errors=True)
        elif directory != Path():
            with suppress(OSError):  # not empty
                directory.rmdir()


def main() -> int:
    template = template_directory()
    if template is not None:
        tidy(template / TREE, ANSWERS["__package_name"])
    recorded, sentence = link()
    write_answers(recorded)
    print(NEXT.format(name=ANSWERS["project_name"], directory=shlex.quote(str(Path.cwd()))))
    if sentence:
        print(sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
