"""The ledger in a bucket: `put_if_absent` is one conditional PUT, so a name is given once, and to a whole object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sparkscore.errors import SparkscoreError, error
from sparkscore.runtime.files import s3_endpoint, s3_region

__all__ = ["S3Store"]

_REQUEST_TRIES = 6  # botocore's waits between them add up to 15 s on average
_BODY_TRIES = 3
_DENIED = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}


class S3Store:
    """Objects below ``s3://bucket/prefix`` or ``s3a://bucket/prefix``.

    Endpoint, region and credentials come from the environment (``AWS_*``) or the machine's role. What the store refuses
    is a `ClusterError`: `SPS-ENV-ACCESS`, `SPS-ENV-LEDGER`, or, where it gives no answer, `SPS-CLUSTER-STORAGE`. It
    tells the name of the refusal, and nothing of the request.

    Notes
    -----
    A request that fails without an answer, or with a 5xx, is sent again by botocore's standard retry mode. Where the
    first one had done its work and only the answer was lost, the second is refused as taken (412) by the caller's own
    object: then the object is read, and its bytes decide.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._bucket, _, prefix = self.root.partition("://")[2].partition("/")
        if not self._bucket:
            raise error(
                "SPS-ENV-LEDGER",
                f"Expected a ledger at s3://bucket/folder. Got {root!r}, without a bucket.",
                "Correct `ledger:`.",
            )
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client()
        self._is_conditional = False

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Create the object with all its bytes at once; False when the name is taken. Durable on return."""
        created = self._create(name, data)
        if created and not self._is_conditional:
            self._assert_conditional(name, data)
        return created

    def put(self, name: str, data: bytes) -> None:
        """Create or replace the object with all its bytes at once."""
        with self._access(name):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)

    def get(self, name: str) -> bytes | None:
        """Read the object, None when there is none; a body that breaks off is read again."""
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        with self._access(name):
            for _ in range(_BODY_TRIES - 1):
                with suppress(IncompleteReadError, ResponseStreamingError):  # which botocore leaves to its caller
                    return self._read(name)
            return self._read(name)

    def names(self, prefix: str) -> list[str]:
        """List the names of the folder `prefix`, not deeper, sorted; empty when there is no such folder."""
        folder = f"{self._prefix}{prefix}/"
        with self._access(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=folder, Delimiter="/"
            )
            keys = [
                key
                for page in pages
                for key in (
                    *(entry["Key"] for entry in page.get("Contents", ())),
                    *(entry["Prefix"] for entry in page.get("CommonPrefixes", ())),
                )
            ]
        return sorted(key.removeprefix(folder).rstrip("/") for key in keys if key != folder)

    def _read(self, name: str) -> bytes | None:
        from botocore.exceptions import ClientError

        try:
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read())
        except ClientError as cause:
            if _name_of(cause) == "NoSuchKey":
                return None
            raise

    def _create(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        asked_again = False
        with self._access(name):
            for left in reversed(range(_REQUEST_TRIES)):
                try:
                    self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, IfNoneMatch="*")
                except ClientError as cause:
                    asked_again = asked_again or cause.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    if _name_of(cause) == "PreconditionFailed":
                        break
                    # Another write of the name was under way, and this one was not carried out: S3 wants it again.
                    if _name_of(cause) != "ConditionalRequestConflict" or not left:
                        raise
                else:
                    return True
        return asked_again and self.get(name) == data

    def _assert_conditional(self, name: str, data: bytes) -> None:
        """Create the same object a second time, which a store that keeps the condition refuses.

        Some stores take the header and ignore it: two drivers would both own a run there.
        """
        from botocore.exceptions import ClientError

        try:
            with self._access(name):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, IfNoneMatch="*")
        except SparkscoreError as refusal:
            if not isinstance(refusal.__cause__, ClientError) or _name_of(refusal.__cause__) != "PreconditionFailed":
                raise
            self._is_conditional = True
            return
        raise error(
            "SPS-ENV-LEDGER",
            "Expected a store that refuses a second object under a name (`If-None-Match: *`). Got one that ignores it.",
            "Give `ledger:` a place on S3 itself, on another store with conditional writes, or on a disk.",
            file=f"{self.root}/{name}",
        )

    @contextmanager
    def _access(self, name: str) -> Iterator[None]:
        """Give a refusal as an error of ours, by its name alone: its text may repeat the request."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as cause:
            status = int(cause.response["ResponseMetadata"].get("HTTPStatusCode", 0))
            raise self._refusal(name, f"{_name_of(cause)}, HTTP status {status}", status) from cause
        except BotoCoreError as cause:
            denied = "Credential" in type(cause).__name__
            raise self._refusal(name, type(cause).__name__, 403 if denied else 0) from cause

    def _refusal(self, name: str, got: str, status: int) -> SparkscoreError:
        place = f"{self.root}/{name}"
        if status in (401, 403) or got.split(",")[0] in _DENIED:
            code, fix = "SPS-ENV-ACCESS", "Give this user the permission to list, read and write there, or AWS_* keys."
        elif 400 <= status < 500:
            code, fix = "SPS-ENV-LEDGER", "Correct `ledger:`, or make the bucket; see the store's own error list."
        else:
            code, fix = "SPS-CLUSTER-STORAGE", "Look at the store and at AWS_ENDPOINT_URL; the same run id goes on."
        return error(code, f"Expected a ledger at {self.root} that answers. Got {got}.", fix, file=place)


def _name_of(refusal: Any) -> str:
    """Name a refusal; some stores leave its name out and give the status only."""
    name, status = str(refusal.response["Error"].get("Code", "")), refusal.response["ResponseMetadata"]
    return {"412": "PreconditionFailed", "404": "NoSuchKey"}.get(name, name) or str(status.get("HTTPStatusCode"))


def _client() -> Any:
    """Make a client of its own session: boto3's default one is not safe in threads."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as cause:
        raise error(
            "SPS-ENV-PACKAGE",
            f"Expected the package boto3, for a ledger on S3. Got no {cause.name}.",
            'pip install "sparkscore[s3]"',
        ) from cause
    endpoint, region = s3_endpoint(), s3_region()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _REQUEST_TRIES},
        s3={"addressing_style": "path" if endpoint else "auto"},
        connect_timeout=10,
        read_timeout=30,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)
