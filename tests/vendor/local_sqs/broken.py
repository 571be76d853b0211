"""A module whose import fails until the file that $DELIVERIES names has a neighbour "fixed"."""

import os
from pathlib import Path

if not (Path(os.environ["DELIVERIES"]).parent / "fixed").exists():
    raise RuntimeError("the import is broken")

from handlers import work  # type: ignore[import-not-found]  # noqa: F401
