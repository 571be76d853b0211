"""The service's handlers as tests reach them: out of the sources, or out of the built zip.

With the zip first on the function's path, core, shims and adapters come out of it. What speaks to
the local queue is not in it, and comes from the directory that LOCAL_OVERLAY names. Handler
``tests.doubles.overlay.worker`` is the worker, which then also notes where its modules came from.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

OVERLAY = os.environ.get("LOCAL_OVERLAY")
if OVERLAY:
    from {{ cookiecutter.__package_name }} import adapters

    adapters.__path__.append(OVERLAY)
    import {{ cookiecutter.__package_name }}.adapters.redis_queue  # noqa: F401  it is found there

from {{ cookiecutter.__package_name }}.shims import aws_lambda  # noqa: E402


def worker(event: dict[str, Any], context: Any) -> dict[str, Any]:
    answer = aws_lambda.worker(event, context)
    if OVERLAY:
        loaded = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
        group = Path(os.environ["PROCGROUP_GROUP_FILE"]).parent
        partial = group / f".loaded.{os.getpid()}"
        partial.write_text(json.dumps(loaded))
        partial.replace(group / "loaded.json")
    return answer
