"""AWS as moto plays it, and every kind of object store."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from lambda_shim.objects import DirectoryObjects, Objects, S3Objects
from moto import mock_aws

from .stores import MemoryObjects

REGION = "eu-central-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


@pytest.fixture(params=["directory", "s3", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    match request.param:
        case "directory":
            return DirectoryObjects(str(tmp_path / "store"))
        case "s3":
            request.getfixturevalue("aws")
            boto3.client("s3").create_bucket(
                Bucket="records", CreateBucketConfiguration={"LocationConstraint": REGION}
            )
            return S3Objects("records", "dead/")
    return MemoryObjects()
