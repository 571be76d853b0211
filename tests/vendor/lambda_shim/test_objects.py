"""Compare-and-swap and listing: every store alike."""

import threading
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from lambda_shim.objects import ABSENT, Conflict, DirectoryObjects, Objects, S3Objects


def test_what_is_put_is_got(objects: Objects) -> None:
    assert objects.get("a.json") is None
    version = objects.put("a.json", b"one")
    assert objects.get("a.json") == (b"one", version)
    assert objects.put("a.json", b"two") != version
    objects.delete("a.json")
    assert objects.get("a.json") is None
    objects.delete("a.json")


def test_a_write_meets_the_version_it_names_or_conflicts(objects: Objects) -> None:
    first = objects.put("a.json", b"one", ABSENT)
    with pytest.raises(Conflict):
        objects.put("a.json", b"other", ABSENT)
    second = objects.put("a.json", b"two", first)
    with pytest.raises(Conflict):
        objects.put("a.json", b"three", first)
    with pytest.raises(Conflict):
        objects.put("nothing.json", b"three", second)
    assert objects.get("a.json") == (b"two", second)


def test_a_deletion_meets_the_version_it_names_or_conflicts(objects: Objects) -> None:
    first = objects.put("a.json", b"one")
    second = objects.put("a.json", b"two")
    with pytest.raises(Conflict):
        objects.delete("a.json", first)
    assert objects.get("a.json") == (b"two", second)
    objects.delete("a.json", second)
    with pytest.raises(Conflict):
        objects.delete("a.json", second)


def test_a_listing_is_of_one_folder(objects: Objects) -> None:
    for key in ("b.json", "a.json", "waiting/own/b", "waiting/own/a", "waiting/x/c", "running/a"):
        objects.put(key, b"x")
    assert list(objects.list()) == ["a.json", "b.json"]
    assert list(objects.list("waiting/own/")) == ["a", "b"]
    assert list(objects.list("waiting/")) == []
    assert list(objects.list("nothing/")) == []
    assert list(objects.folders("waiting/")) == ["own", "x"]
    assert list(objects.folders("nothing/")) == []


def test_of_many_writers_one_wins_each_swap(tmp_path: Path) -> None:
    """Threads hold descriptors of their own, so they exclude each other as processes do."""
    store = DirectoryObjects(str(tmp_path))
    store.put("count", b"0")

    def add() -> None:
        for _ in range(50):
            while True:
                found = store.get("count")
                assert found is not None
                try:
                    store.put("count", str(int(found[0]) + 1).encode(), found[1])
                    break
                except Conflict:
                    continue

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.get("count")
    assert found is not None
    assert found[0] == b"200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x"])
def test_no_key_climbs_out_of_the_directory(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a key"):
        DirectoryObjects(str(tmp_path / "store")).put(key, b"x")


class LostAnswers:
    """An S3 client whose put arrives twice: the answer to the first was lost, boto3 sent again."""

    def __init__(self) -> None:
        self.client = boto3.client("s3")

    def __getattr__(self, name: str) -> object:
        return getattr(self.client, name)

    def put_object(self, **arguments: object) -> object:
        self.client.put_object(**arguments)
        return self.client.put_object(**arguments)


@pytest.fixture
def bucket(aws: None) -> S3Objects:
    boto3.client("s3").create_bucket(
        Bucket="records", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return S3Objects("records")


def test_a_conditional_put_whose_answer_was_lost_has_succeeded(bucket: S3Objects) -> None:
    bucket._client = LostAnswers()
    first = bucket.put("a", b"one", ABSENT)
    second = bucket.put("a", b"two", first)
    assert bucket.get("a") == (b"two", second)
    with pytest.raises(Conflict):
        bucket.put("a", b"three", first)


@pytest.mark.usefixtures("aws")
def test_other_errors_of_s3_are_no_conflicts() -> None:
    store = S3Objects("no-such-bucket")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        store.put("a", b"one", ABSENT)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        store.delete("a", "x")


def test_an_s3_listing_goes_over_pages(bucket: S3Objects) -> None:
    names = [f"{number:04}" for number in range(1005)]
    for name in names:
        bucket.put(f"waiting/own/{name}", b"")
    assert list(bucket.list("waiting/own/")) == names
