"""Powertools for AWS Lambda: its batch processor, and its parser over pydantic."""

from __future__ import annotations

from typing import Any, Literal

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.parser.models import SqsRecordModel
from effects import greet
from pydantic import BaseModel, Field, Json


class Greeting(BaseModel):
    type: Literal["greeting"]
    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    name: str = Field(min_length=1, max_length=200)


class GreetingRecord(SqsRecordModel):
    body: Json[Greeting]


processor = BatchProcessor(event_type=EventType.SQS, model=GreetingRecord)


def record_handler(record: GreetingRecord) -> None:
    greet(record.body.id, record.body.name)


def handler(event: dict[str, Any], context: Any) -> Any:
    return process_partial_response(
        event=event, record_handler=record_handler, processor=processor, context=context
    )
