"""Go over to another deployment tool, after saying whose work that would drop.

::

    python -m tools.switch cdk

`copier update` deletes the old tool's files, and what you changed in them, without a word. So the
template is made twice here, as it was and as it will be, and compared with what lies in the project.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from .deploy import confirmed

PROJECT = Path(__file__).resolve().parent.parent
TARGETS = ("sam", "cdk", "serverless")
# copier lives in an environment of its own, kept by uv. COPIER names one that is installed.
COPIER = os.environ.get("COPIER", "").split() or [
    *(os.environ.get("UV", "uv"), "tool", "run", "--quiet", "--from", "copier>=9.19.1", "copier")
]


def render(recorded: dict[str, Any], target: str, directory: Path) -> dict[str, bytes]:
    """The files that the template makes with the recorded answers and this target."""
    answers = {name: value for name, value in recorded.items() if not name.startswith("_")}
    data = [
        f"--data={name}={value}" for name, value in (answers | {"deploy_target": target}).items()
    ]
    subprocess.run(
        [
            *(*COPIER, "copy", "--quiet", "--defaults", "--vcs-ref", recorded["_commit"]),
            *(*data, recorded["_src_path"], str(directory)),
        ],
        check=True,
        cwd=PROJECT,
    )
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def edited(before: dict[str, bytes]) -> set[str]:
    """Which of these files are no longer what the template made."""
    return {
        name
        for name, made in before.items()
        if (path := PROJECT / name).is_file() and path.read_bytes() != made
    }


def announce(before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Say what the switch will do to which file; True when someone's edits would be lost."""
    ours = edited(before)
    gone = sorted(name for name in before if name not in after and (PROJECT / name).is_file())
    new = after.keys() - before.keys()
    taken = edited({name: after[name] for name in new})
    print("New: " + ", ".join(sorted(new - taken)))
    if taken:
        print("New, and you have your own (a conflict to settle): " + ", ".join(sorted(taken)))
    print("Goes away: " + ", ".join(name for name in gone if name not in ours))
    changed = {name for name in before if name in after and before[name] != after[name]}
    if both := sorted(changed & ours - {".copier-answers.yml"}):
        print("Changes, and you changed it too (look at it): " + ", ".join(both))
    lost = [name for name in gone if name in ours]
    if lost:
        print("\nGoes away WITH YOUR EDITS, which only git will remember:", flush=True)
        for name in lost:
            print(f"  {name}")
        print("What you changed there has to be said again in the new tool's words.")
    return bool(lost)


def git(*arguments: str) -> str:
    """What git says of this project."""
    command = ("git", *arguments)
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True).stdout


def main(arguments: list[str]) -> int:
    recorded = yaml.safe_load((PROJECT / ".copier-answers.yml").read_text("utf-8"))
    now = recorded["deploy_target"]
    if len(arguments) != 1 or (target := arguments[0]) not in TARGETS or target == now:
        others = " or ".join(f"make switch TARGET={one}" for one in TARGETS if one != now)
        print(f"This service deploys with {now}. To change that: {others}", file=sys.stderr)
        return 2
    if "_commit" not in recorded:
        print("This service has no link to a version of its template.", file=sys.stderr)
        return 1
    if changed := git("status", "--porcelain"):
        print(f"Commit your changes first:\n{changed}", end="", file=sys.stderr)
        return 1
    print(f"Switches from {now} to {target}, at the template's version {recorded['_commit']}.")
    try:
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as side_by_side:
            before, after = side_by_side.map(
                lambda tool: render(recorded, tool, Path(scratch, tool)), (now, target)
            )
    except subprocess.CalledProcessError:
        address = recorded["_src_path"]
        print(
            f"No template to be had from {address!r}: the template's git address belongs into "
            ".copier-answers.yml, as _src_path.",
            file=sys.stderr,
        )
        return 1
    lost = announce(before, after)
    print("\nDeployed stages are not touched. Functions keep their names, so destroy a stage with")
    print(f"{now} (make destroy STAGE=…) before you deploy it with {target}.")
    if lost and not confirmed(target):
        return 1
    command = [*COPIER, "update", "--defaults", "--vcs-ref", ":current:"]
    command += ["--data", f"deploy_target={target}"]
    print("+", " ".join(command), flush=True)
    if status := subprocess.run(command, cwd=PROJECT).returncode:
        return status
    if conflicts := git("diff", "--name-only", "--relative", "--diff-filter=U").splitlines():
        print(f"Conflicts to settle, marked in the files: {', '.join(conflicts)}", file=sys.stderr)
    return bool(conflicts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
