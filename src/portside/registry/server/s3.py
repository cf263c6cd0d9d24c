"""Objects in an S3-compatible bucket, through boto3 (``pip install portside[s3]``).

boto3 blocks, so each call runs in a thread. An object is put in one request or by a
managed multipart upload, both of which become visible all at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from portside.model.errors import InvalidParameter
from portside.registry.server.config import S3
from portside.registry.server.storage import CHUNK, Stat, in_thread


class S3Storage:
    """The bucket that ``settings`` names; raises InvalidParameter when boto3 is missing."""

    def __init__(self, settings: S3) -> None:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as err:
            raise InvalidParameter(
                "storage.s3 needs boto3, which is not installed: pip install 'portside[s3]'"
            ) from err
        endpoint = settings.regionendpoint or None
        if endpoint and "://" not in endpoint:
            endpoint = f"{'https' if settings.secure else 'http'}://{endpoint}"
        style = {"addressing_style": "path" if settings.forcepathstyle else "auto"}
        self._client: Any = boto3.client(
            "s3",
            region_name=settings.region,
            endpoint_url=endpoint,
            aws_access_key_id=settings.accesskey or None,
            aws_secret_access_key=settings.secretkey or None,
            aws_session_token=settings.sessiontoken or None,
            verify=not settings.skipverify,
            config=Config(s3=style, retries={"max_attempts": 5, "mode": "standard"}),
        )
        self._bucket = settings.bucket
        self._prefix = settings.rootdirectory.strip("/")
        self._extra: dict[str, str] = {}
        if settings.encrypt:
            self._extra["ServerSideEncryption"] = "aws:kms" if settings.keyid else "AES256"
            if settings.keyid:
                self._extra["SSEKMSKeyId"] = settings.keyid
        if settings.storageclass:
            self._extra["StorageClass"] = settings.storageclass

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    async def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        call = getattr(self._client, operation)
        from botocore.exceptions import ClientError

        try:
            return await in_thread(
                lambda: call(Bucket=self._bucket, Key=self._key(key), **arguments)
            )
        except ClientError as err:
            if err.response["Error"]["Code"] in ("NoSuchKey", "404", "NotFound"):
                raise FileNotFoundError(key) from err
            raise

    async def read(self, key: str) -> bytes:
        answer = await self._call("get_object", key)
        body = answer["Body"]
        data: bytes = await in_thread(body.read)
        return data

    async def write(self, key: str, data: bytes) -> None:
        await self._call("put_object", key, Body=data, **self._extra)

    async def commit(self, keys: Iterable[str], then: Mapping[str, bytes]) -> None:
        """An object that was put is durable: only the order is left to keep."""
        for key, data in then.items():
            await self.write(key, data)

    async def stat(self, key: str) -> Stat:
        answer = await self._call("head_object", key)
        return Stat(answer["ContentLength"], answer["LastModified"].timestamp())

    async def delete(self, key: str) -> None:
        found = [name async for name in self._all(self._key(key) + "/")]
        if not found:
            await self._call("head_object", key)
            found = [self._key(key)]
        for start in range(0, len(found), 1000):  # the most one request takes
            objects = {"Objects": [{"Key": name} for name in found[start : start + 1000]]}
            await in_thread(
                lambda batch=objects: self._client.delete_objects(  # type: ignore[misc]
                    Bucket=self._bucket, Delete=batch
                )
            )

    async def touch(self, key: str) -> None:
        """Nothing: a copy onto itself would move gigabytes. ``Content`` remembers instead."""

    async def _all(self, prefix: str) -> AsyncIterator[str]:
        async for page in self._pages(prefix, ""):
            for entry in page.get("Contents", ()):
                yield entry["Key"]

    async def _pages(self, prefix: str, delimiter: str) -> AsyncIterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = await in_thread(
                lambda more=token: self._client.list_objects_v2(  # type: ignore[misc]
                    Bucket=self._bucket, Prefix=prefix, Delimiter=delimiter, **more
                )
            )
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def names(self, prefix: str) -> list[str]:
        base = self._key(prefix) + "/"
        found: set[str] = set()
        async for page in self._pages(base, "/"):
            found.update(e["Prefix"][len(base) : -1] for e in page.get("CommonPrefixes", ()))
            found.update(e["Key"][len(base) :] for e in page.get("Contents", ()))
        return sorted(found - {""})

    async def stream(self, key: str, start: int, length: int) -> AsyncIterator[bytes]:
        if length <= 0:
            return
        span = f"bytes={start}-{start + length - 1}"
        body = (await self._call("get_object", key, Range=span))["Body"]
        try:
            while data := await in_thread(lambda: body.read(CHUNK)):
                yield data
        finally:
            body.close()

    async def adopt(self, path: Path, key: str) -> None:
        name, extra = self._key(key), self._extra or None
        await in_thread(
            lambda: self._client.upload_file(str(path), self._bucket, name, ExtraArgs=extra)
        )
        path.unlink()

    def local(self, key: str) -> Path | None:
        return None
