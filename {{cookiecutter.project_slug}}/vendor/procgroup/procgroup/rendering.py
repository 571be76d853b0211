"""Jinja2 for blueprints: strict (an unknown name is an error), with errors that name their line."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import jinja2

from procgroup.errors import BlueprintError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class _Environment(jinja2.Environment):
    """A key of a mapping wins over a method of the same name: roles.items is the role "items"."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


# Bounded, for a test session may write and use thousands of blueprints.
_MOST = 256
_environments: dict[Path, _Environment] = {}
_texts: dict[tuple[Path, str], jinja2.Template] = {}
_files: dict[tuple[Path, Path], tuple[tuple[int, int], jinja2.Template]] = {}


def _environment(directory: Path) -> _Environment:
    """The environment whose includes are looked for in `directory`."""
    if directory not in _environments:
        _forget(_environments, _MOST // 8)
        _environments[directory] = _Environment(
            undefined=jinja2.StrictUndefined,
            loader=jinja2.FileSystemLoader(directory),
            keep_trailing_newline=True,
            autoescape=False,
        )
    return _environments[directory]


def _forget(table: dict[Any, Any], most: int) -> None:
    """Make room in a cache that is full."""
    if len(table) >= most:
        table.clear()


def _problem(error: Exception) -> str:
    return getattr(error, "message", None) or str(error) or type(error).__name__


def render_text(text: str, context: Mapping[str, Any], where: str, directory: Path) -> str:
    """Render one string of a blueprint; `where` begins the text of a BlueprintError."""
    try:
        template = _texts.get((directory, text))
        if template is None:
            _forget(_texts, _MOST)
            template = _texts[directory, text] = _environment(directory).from_string(text)
        return template.render(context)
    except Exception as error:  # whatever an expression may raise is the blueprint's error
        raise BlueprintError(f"{where}: {_problem(error)} (in {text!r})") from error


def render_file(file: Path, context: Mapping[str, Any], where: str, directory: Path) -> str:
    """Render a template file; errors name its own line as well as `where` it was asked for."""
    try:
        status = file.stat()
        stamp = status.st_mtime_ns, status.st_size
        known = _files.get((directory, file))
        if known is None or known[0] != stamp:
            environment = _environment(directory)
            code = environment.compile(file.read_text(encoding="utf-8"), filename=str(file))
            template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
            _forget(_files, _MOST)
            known = _files[directory, file] = (stamp, template)
        return known[1].render(context)
    except OSError as error:
        raise BlueprintError(
            f"{where}: cannot read the template {file}: {error.strerror}"
        ) from error
    except jinja2.TemplateSyntaxError as error:
        place = f"{error.filename or file}:{error.lineno}"
        raise BlueprintError(f"{place}: {_problem(error)} ({where})") from error
    except Exception as error:  # whatever an expression may raise is the template's error
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).parent == file.parent or frame.filename == str(file)
        ]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(file)
        raise BlueprintError(f"{place}: {_problem(error)} ({where})") from error
