"""Documents in a directory or in S3."""

import os
from pathlib import Path
from typing import Any

from ..core.ports import Documents


class FileDocuments:
    """``file:///some/directory``."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def put(self, name: str, data: bytes) -> None:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)


class S3Documents:
    """``s3://bucket/prefix/``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._client: Any = None

    def put(self, name: str, data: bytes) -> None:
        if self._client is None:
            import boto3

            self._client = boto3.client("s3")
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)


def open_documents(url: str) -> Documents:
    """The adapter for this URL. Raises ValueError for a scheme without one."""
    scheme, _, place = url.partition("://")
    if scheme == "file":
        return FileDocuments(place)
    if scheme == "s3":
        bucket, _, prefix = place.partition("/")
        return S3Documents(bucket, prefix)
    raise ValueError(f"DOCUMENTS_URL: no adapter for {scheme}://; use s3 or file")
