"""The ledger in a DynamoDB table: key ``id`` (string), time to live on ``expires``."""

from time import time
from typing import Any

# How long a completed effect is remembered: as long as a dead letter can lie in a DLQ (14 days,
# SQS's longest retention) and be redriven.
REMEMBER = 14 * 86_400


class DynamoDbLedger:
    """Conditional writes make each step atomic; see ``contract.Ledger`` for what they mean."""

    def __init__(self, table: str) -> None:
        self.table = table
        self._client: Any = None

    def _dynamodb(self) -> Any:
        if self._client is None:
            import boto3

            self._client = boto3.client("dynamodb")
        return self._client

    def claim(self, key: str, token: str, lease: float) -> tuple[str, float]:
        client = self._dynamodb()
        now = time()
        try:
            client.update_item(
                TableName=self.table,
                Key={"id": {"S": key}},
                # Free, or run out, or the caller's own; never one that is completed.
                ConditionExpression="attribute_not_exists(id) OR "
                "(attribute_not_exists(completed) AND (lease_until < :now OR holder = :token))",
                UpdateExpression="SET holder = :token, lease_until = :until, expires = :expires",
                ExpressionAttributeValues={
                    ":now": {"N": repr(now)},
                    ":token": {"S": token},
                    ":until": {"N": repr(now + lease)},
                    ":expires": {"N": str(int(now + REMEMBER))},
                },
            )
        except client.exceptions.ConditionalCheckFailedException:
            answer = client.get_item(
                TableName=self.table, Key={"id": {"S": key}}, ConsistentRead=True
            )
            item = answer.get("Item")
            if item is None:  # released or expired in between: ask again soon
                return "held", 1.0
            if "completed" in item:
                return "completed", 0.0
            return "held", max(0.0, float(item["lease_until"]["N"]) - now)
        return "claimed", 0.0

    def complete(self, key: str, token: str) -> bool:
        now = time()
        client = self._dynamodb()
        try:
            client.update_item(
                TableName=self.table,
                Key={"id": {"S": key}},
                ConditionExpression="holder = :token",
                UpdateExpression="SET completed = :now, expires = :expires "
                "REMOVE holder, lease_until",
                ExpressionAttributeValues={
                    ":token": {"S": token},
                    ":now": {"N": repr(now)},
                    ":expires": {"N": str(int(now + REMEMBER))},
                },
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def release(self, key: str, token: str) -> bool:
        client = self._dynamodb()
        try:
            client.delete_item(
                TableName=self.table,
                Key={"id": {"S": key}},
                ConditionExpression="holder = :token",
                ExpressionAttributeValues={":token": {"S": token}},
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
        return True
