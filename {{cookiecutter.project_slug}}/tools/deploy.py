"""Deploy a stage or destroy it, after saying what that means.

::

    python -m tools.deploy deploy staging [a zip built before, else build/lambda.zip]
    python -m tools.deploy destroy staging

and run the scenarios against it::

    python -m tools.deploy test staging
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

{% if cookiecutter.overflow == 'fargate' -%}
from .push import after_deployment, tag_to_deploy
{% endif -%}
from .stages import must_exist
from .target import DIRECTORY, REGION_ELSE, TOOL, deploy_command, destroy_command

PROJECT = Path(__file__).resolve().parent.parent
ARCHIVE = PROJECT / "build" / "lambda.zip"
SERVICE = "{{ cookiecutter.project_slug }}"


def place(otherwise: str) -> str:
    """Profile or keys, and region, as the tools will see them.

    Args:
        otherwise: which region it is where the environment names none. Where it is empty, the
            tool would see none: raises SystemExit.
    """
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or otherwise
    if not region:
        sys.exit(f"{TOOL} does not take the region from the profile: set AWS_REGION.")
    profile, key = os.environ.get("AWS_PROFILE"), os.environ.get("AWS_ACCESS_KEY_ID")
    who = [f"profile {profile or 'default'}"] if profile or not key else []
    if key:
        who.append(f"the keys of the environment (AWS_ACCESS_KEY_ID …{key[-4:]})")
    if len(who) == 2:
        print(
            "AWS_PROFILE and AWS_ACCESS_KEY_ID are both set: the tools differ in which they take; "
            "unset one.",
            file=sys.stderr,
        )
    return f"{' or '.join(who)}, region {region}"


def confirmed(word: str) -> bool:
    """True when the person types the word; a pipeline says it with CONFIRM."""
    if os.environ.get("CONFIRM") == word:
        return True
    sys.stdout.flush()  # what was said so far, ahead of what standard error says
    if not sys.stdin.isatty():
        print(f"Not confirmed: set CONFIRM={word} where nobody can answer.", file=sys.stderr)
        return False
    try:
        if input(f"Type {word} to go on: ").strip() == word:
            return True
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
    print("Not confirmed.", file=sys.stderr)
    return False


def main(arguments: list[str]) -> int:
    directory = PROJECT / DIRECTORY
    for stage in arguments[1:2]:
        must_exist(stage)
    match arguments:
        case ["deploy", stage, *built]:
            where = place(REGION_ELSE)
            for given in built:
                if not Path(given).is_file():
                    print(f"There is no zip {given}.", file=sys.stderr)
                    return 1
                if Path(given).resolve() != ARCHIVE:  # where deploy/ looks for it
                    ARCHIVE.parent.mkdir(exist_ok=True)
                    shutil.copyfile(given, ARCHIVE)
            code = ARCHIVE.read_bytes()
            print(f"Deploys stack {SERVICE}-{stage} with {TOOL} ({where}).")
            print(f"Code: {len(code):,} bytes, SHA-256 {hashlib.sha256(code).hexdigest()}.")
            print("A new version of the worker takes over as the stage's traffic shift says.")
{%- if cookiecutter.overflow == 'fargate' %}
            command = deploy_command(stage, tag_to_deploy(stage))
{%- else %}
            command = deploy_command(stage)
{%- endif %}
        case ["destroy", stage]:
            where = place(REGION_ELSE)
            print(f"Destroys stack {SERVICE}-{stage} with {TOOL} ({where}):")
            print("its queues with every message in them, functions, alarms and logs.")
{%- if cookiecutter.overflow == 'fargate' %}
            print("The overflow's tasks and images go too; stop running tasks before.")
{%- endif %}
            print("The buckets and the ledger table stay, and are yours to delete.")
            if not confirmed(stage):
                return 1
            command = destroy_command(stage)
        case ["test", stage]:
            where = place("of the profile")
            print(f"Tests stack {SERVICE}-{stage} ({where}):")
            print("sends messages to its work queue, then looks into its buckets and its ledger.")
            print("What the scenarios do there stays there: documents, records, ledger entries.")
            print("Nobody else should use the stage meanwhile.")
            if stage == "production" and not confirmed(stage):
                return 1
            options = ["--ring", "staging", "--stage", stage, "-n", "0", "tests/scenarios"]
            command = [sys.executable, "-m", "pytest", *options]
            directory = PROJECT
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    print("+", shlex.join(command), flush=True)
    try:
        status = subprocess.run(command, cwd=directory).returncode
    except FileNotFoundError:
        print(f"{command[0]} is not on PATH, so {TOOL} cannot be started.", file=sys.stderr)
        return 1
{%- if cookiecutter.overflow == 'fargate' %}
    if arguments[0] == "deploy" and status == 0:
        status = after_deployment(stage)
{%- endif %}
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
