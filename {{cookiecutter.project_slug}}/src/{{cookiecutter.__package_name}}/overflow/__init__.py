{% if cookiecutter.overflow == 'fargate' -%}
"""What finishes the jobs that Lambda could not: the entry points, wiring only."""

from pathlib import Path

# Whose dead letters are taken up beside the service's own; see lambda_shim.registry.
REGISTRY = str(Path(__file__).with_name("registry.json"))
{%- else -%}
"""What keeps the messages that Lambda could not handle: the entry point, wiring only."""
{%- endif %}
