{% if cookiecutter.overflow == 'fargate' -%}
"""What Lambda calls with failed messages, with stopped tasks and with the clock's ticks.
{%- else -%}
"""What Lambda calls with failed messages, and with the clock's ticks.
{%- endif %}

Imports nothing of the service's own: a deployment that cannot import its jobs still puts every
failed message on record.
"""

import os
{%- if cookiecutter.overflow == 'fargate' %}
from collections.abc import Mapping
from typing import Any
{%- endif %}

from lambda_shim.ecs import dispatcher
{%- if cookiecutter.overflow == 'fargate' %}

from . import REGISTRY


def ecs(environ: Mapping[str, str]) -> Any:
    """What tasks are asked of: locally the process group's task agent; None, on AWS, is ECS."""
    address = environ.get("OVERFLOW_AGENT")
    if not address:
        return None
    from local_sqs.tasks import TaskClient

    return TaskClient(address)


handler = dispatcher({"OVERFLOW_REGISTRY": REGISTRY, **os.environ}, ecs(os.environ))
{%- else %}

handler = dispatcher(os.environ)
{%- endif %}
