"""The floor of generation: ``python -m … TREE OUTPUT ANSWERS``: every name and file through Jinja.

``ANSWERS`` is a JSON file, what the templates see as ``cookiecutter``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jinja2

CACHES = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def render(tree: Path, output: Path, answers: dict[str, object]) -> None:
    """Write the tree's files below ``output``; a path with an empty part is left out."""
    environment = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)

    def text(template: str) -> str:
        return environment.from_string(template).render(cookiecutter=answers)

    def directory(source: Path, target: Path) -> None:
        for entry in sorted(source.iterdir()):
            name = text(entry.name)
            if not name or entry.name in CACHES:
                continue
            if entry.is_dir():
                directory(entry, target / name)
            else:
                target.mkdir(parents=True, exist_ok=True)
                destination = target / name
                destination.write_text(text(entry.read_text(encoding="utf-8")), encoding="utf-8")
                destination.chmod(entry.stat().st_mode)

    directory(tree, output)


if __name__ == "__main__":
    render(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
