"""What not to do: the service's worker, but what was done is remembered by SQS's message id.

Handler ``tests.doubles.by_message_id.worker``, with the switches of `faults` in front.
"""

from typing import Any

from lambda_shim.batch import SqsHandler
from lambda_shim.contract import Context

from {{ cookiecutter.__package_name }}.core import jobs, messages
from {{ cookiecutter.__package_name }}.shims import aws_lambda

from .faults import with_switches


class ByMessageId(Context[Any], frozen=True):
    """A job's context that takes the message id for the business id."""

    @property
    def business_id(self) -> str:
        return self.message_id


def handle(message: Any, context: Context[Any]) -> None:
    fields = {name: getattr(context, name) for name in Context.__struct_fields__}
    jobs.handle(message, ByMessageId(**fields))


worker = with_switches(SqsHandler(messages.decode, handle, aws_lambda.wire))
