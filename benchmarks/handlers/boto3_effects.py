"""A greeting's effects through boto3: claimed in DynamoDB, put into S3, completed."""

from __future__ import annotations

import os
from time import time


def greet(identifier: str, name: str) -> None:
    """Put a greeting into the bucket once, as the service's own job does."""
    import boto3

    table, bucket = os.environ["TABLE"], os.environ["BUCKET"]
    key = {"id": {"S": f"greeting-{identifier}"}}
    dynamodb = boto3.client("dynamodb")
    dynamodb.update_item(
        TableName=table,
        Key=key,
        ConditionExpression="attribute_not_exists(id)",
        UpdateExpression="SET lease_until = :until",
        ExpressionAttributeValues={":until": {"N": str(time() + 30)}},
    )
    boto3.client("s3").put_object(
        Bucket=bucket, Key=f"{identifier}.txt", Body=f"Hello, {name}!\n".encode()
    )
    dynamodb.update_item(
        TableName=table,
        Key=key,
        UpdateExpression="SET completed = :now",
        ExpressionAttributeValues={":now": {"N": str(time())}},
    )
