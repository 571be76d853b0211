"""Check what will be deployed: as CloudFormation, linted, and held against checkov's rules.

The deployment tool's own source is not enough: a reference that nothing defines may show only in
the CloudFormation that comes out of it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .stages import must_exist
from .target import IGNORED_LINTS, NODE, TOOL, check, synthesise

PROJECT = Path(__file__).parent.parent
# `uv run` tells where uv is; it need not be on PATH.
UV = os.environ.get("UV", "uv")
# One version, today and in a year: the next one knows rules that this project has not answered.
CHECKOV = "checkov==3.3.30"


def cfn_lint(template: Path) -> int:
    ignored = [f"--ignore-checks={rule}" for rule in IGNORED_LINTS]
    # The template comes last: the option takes many values.
    program = Path(sys.executable).with_name("cfn-lint")
    return subprocess.run([program, *ignored, "--", template]).returncode


def checkov(template: Path) -> int:
    """Its many dependencies live in an environment of their own, kept by uv."""
    return subprocess.run(
        [
            *(UV, "tool", "run", "--quiet", "--python", ">=3.11,<3.14", "--from", CHECKOV),
            # By names below the project: it takes some absolute ones for secrets.
            *("checkov", "--file", str(template.relative_to(PROJECT))),
            *("--config-file", "deploy/checkov.yaml"),
        ],
        cwd=PROJECT,
        # It warns at length when its vendor's guidelines cannot be fetched.
        env={**os.environ, "LOG_LEVEL": "ERROR"},
    ).returncode


def main() -> int:
    stage = os.environ.get("STAGE") or "dev"
    must_exist(stage)
    if NODE and shutil.which("node") is None:
        print(
            f"{TOOL} runs on node 20 or newer, which is not on PATH: https://nodejs.org",
            file=sys.stderr,
        )
        return 1
    try:
        template = synthesise(PROJECT, stage)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    statuses = [cfn_lint(template), checkov(template), check(PROJECT)]
    if any(statuses):
        return 1
    print(f"{template.relative_to(PROJECT)}: linted and checked, nothing to say")
    return 0


if __name__ == "__main__":
    sys.exit(main())
