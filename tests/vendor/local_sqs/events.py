"""A function that is told of stopped tasks. It notes what it was given in $EVENTS."""

import json
import os
from pathlib import Path
from typing import Any


def note(event: dict[str, Any], context: Any) -> None:
    """Fails as often as the file `fail` beside the notes is long."""
    notes = Path(os.environ["EVENTS"])
    with notes.open("a") as file:
        file.write(json.dumps(event) + "\n")
    fail = notes.with_name("fail")
    if fail.exists() and (left := fail.read_text()):
        fail.write_text(left[1:])
        raise RuntimeError("told to fail")
    if notes.with_name("exit").exists():
        notes.with_name("exit").unlink()
        os._exit(3)
