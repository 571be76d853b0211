"""Small objects under keys, with compare-and-swap: an S3 bucket, or a directory that works alike.

Dead-letter records, their markers and the launch budget all lie in one such store, and all that is
said about who may change what rests on one rule: a write may name the version it replaces, and
fails with Conflict when that is not what lies there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

# The version of what is not there.
ABSENT = ""


class Conflict(Exception):
    """What lies under the key is not the version that was named. Read again, and decide anew."""


class Objects(Protocol):
    """A store of objects. Keys look like paths: ``m1.json``, ``running/m1``.

    Whatever else goes wrong (no network, no permission, disk full) is raised as the library below
    raises it; then the write may have happened or not.
    """

    def get(self, key: str) -> tuple[bytes, str] | None:
        """The object and its version; None when there is none."""
        ...

    def put(self, key: str, data: bytes, version: str | None = None) -> str:
        """Store durably, whole or not at all; returns the new version.

        Args:
            key: where.
            data: what.
            version: what it replaces: ABSENT, a version that was read, or None for anything.

        Raises:
            Conflict: something else lies there.
        """
        ...

    def delete(self, key: str, version: str | None = None) -> None:
        """Remove the object, if there is one.

        Raises:
            Conflict: a version was named, and it is not (or no longer) there.
        """
        ...

    def list(self, folder: str = "") -> Iterator[str]:
        """Names of the objects directly in a folder, sorted. ``folder`` is "" or ends in "/"."""
        ...

    def folders(self, folder: str) -> Iterator[str]:
        """Names of the folders directly in a folder, sorted; some may be empty."""
        ...


class DirectoryObjects:
    """Objects as files: ``ls`` lists them, any editor reads them.

    A version is a hash of the content. Writers of all processes take turns by a lock on the
    directory; readers need none, since files are only ever replaced whole.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def get(self, key: str) -> tuple[bytes, str] | None:
        try:
            with open(self._path(key), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        return data, _digest(data)

    def put(self, key: str, data: bytes, version: str | None = None) -> str:
        import os
        from threading import get_ident

        path = self._path(key)
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        partial = os.path.join(folder, f".{name}.{os.getpid()}.{get_ident()}")
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._lock():
                self._expect(key, version)
                os.replace(partial, path)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
        return _digest(data)

    def delete(self, key: str, version: str | None = None) -> None:
        import os
        from contextlib import suppress

        with self._lock():
            self._expect(key, version)
            with suppress(FileNotFoundError):
                os.unlink(self._path(key))

    def list(self, folder: str = "") -> Iterator[str]:
        import os

        try:
            with os.scandir(self._path(folder)) as entries:
                names = [e.name for e in entries if not e.name.startswith(".") and e.is_file()]
        except FileNotFoundError:
            return iter(())
        return iter(sorted(names))

    def folders(self, folder: str) -> Iterator[str]:
        import os

        try:
            with os.scandir(self._path(folder)) as entries:
                return iter(sorted(entry.name for entry in entries if entry.is_dir()))
        except FileNotFoundError:
            return iter(())

    def _path(self, key: str) -> str:
        if ".." in key.split("/") or key.startswith("/"):
            raise ValueError(f"not a key of this store: {key!r}")
        return f"{self.directory}/{key}"

    def _expect(self, key: str, version: str | None) -> None:
        if version is not None:
            found = self.get(key)
            if version != (ABSENT if found is None else found[1]):
                raise Conflict(key)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl
        import os

        os.makedirs(self.directory, exist_ok=True)
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class S3Objects:
    """Objects of an S3 bucket below a prefix, by S3's conditional writes (If-Match, If-None-Match).

    A version is the object's ETag.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._client: Any = None
        self._lock = Lock()

    def _s3(self) -> Any:
        # A client may be used by several threads, but boto3 does not make two at once.
        with self._lock:
            if self._client is None:
                import boto3

                self._client = boto3.client("s3")
            return self._client

    def get(self, key: str) -> tuple[bytes, str] | None:
        s3 = self._s3()
        try:
            answer = s3.get_object(Bucket=self.bucket, Key=self.prefix + key)
        except s3.exceptions.NoSuchKey:
            return None
        return answer["Body"].read(), answer["ETag"]

    def put(self, key: str, data: bytes, version: str | None = None) -> str:
        condition = {} if version is None else {"IfMatch": version}
        if version == ABSENT:
            condition = {"IfNoneMatch": "*"}
        try:
            with _conflicts(key):
                answer = self._s3().put_object(
                    Bucket=self.bucket,
                    Key=self.prefix + key,
                    Body=data,
                    ContentType="application/json",
                    **condition,
                )
        except Conflict:
            # boto3 sends a request again whose answer was lost. If the first one had arrived, the
            # second meets the object that it wrote itself.
            found = self.get(key)
            if found is None or found[0] != data:
                raise
            return found[1]
        etag: str = answer["ETag"]
        return etag

    def delete(self, key: str, version: str | None = None) -> None:
        condition = {} if version is None else {"IfMatch": version}
        with _conflicts(key):
            self._s3().delete_object(Bucket=self.bucket, Key=self.prefix + key, **condition)

    def list(self, folder: str = "") -> Iterator[str]:
        for page in self._pages(folder):
            for entry in page.get("Contents", ()):
                if name := entry["Key"][len(self.prefix + folder) :]:
                    yield name

    def folders(self, folder: str) -> Iterator[str]:
        for page in self._pages(folder):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"][len(self.prefix + folder) : -1]

    def _pages(self, folder: str) -> Any:
        pages = self._s3().get_paginator("list_objects_v2")
        return pages.paginate(Bucket=self.bucket, Prefix=self.prefix + folder, Delimiter="/")


@contextmanager
def _conflicts(key: str) -> Iterator[None]:
    """S3's ways to say that a condition does not hold, as Conflict."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        # 412; 409, when another conditional write is under way; 404, when a version was named
        # and nothing is there.
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
            raise Conflict(key) from error
        raise


def _digest(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()[:32]
