"""The distribution-spec's error codes and the answers they become."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from portside.model.errors import PortsideError

_STATUS = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 404,  # nothing can be there (distribution-spec, "Endpoints")
    "NAME_UNKNOWN": 404,
    "PAGINATION_NUMBER_INVALID": 400,
    "RANGE_INVALID": 416,
    "SIZE_INVALID": 400,
    "TAG_INVALID": 400,
    "UNAUTHORIZED": 401,
    "DENIED": 403,
    "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
}
_MESSAGE = {
    "BLOB_UNKNOWN": "blob unknown to registry",
    "BLOB_UPLOAD_INVALID": "blob upload invalid",
    "BLOB_UPLOAD_UNKNOWN": "blob upload unknown to registry",
    "DIGEST_INVALID": "provided digest did not match uploaded content",
    "MANIFEST_BLOB_UNKNOWN": "blob unknown to registry",
    "MANIFEST_INVALID": "manifest invalid",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_INVALID": "invalid repository name",
    "NAME_UNKNOWN": "repository name not known to registry",
    "PAGINATION_NUMBER_INVALID": "invalid number of results requested",
    "RANGE_INVALID": "invalid content range",
    "SIZE_INVALID": "provided length did not match content length",
    "TAG_INVALID": "manifest tag did not match URI",
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "UNSUPPORTED": "The operation is unsupported.",
    "TOOMANYREQUESTS": "too many requests",
    "UNAVAILABLE": "service unavailable",
    "UNKNOWN": "unknown error",
}


class RegistryError(PortsideError):
    """An answer with one error of the spec (distribution-spec, "Error Codes").

    ``status`` defaults to the code's usual HTTP status; ``headers`` are sent with it. With
    ``details`` the answer has one error for each of them.
    """

    def __init__(
        self,
        code: str,
        detail: object = None,
        *,
        details: tuple[object, ...] = (),
        message: str = "",
        status: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or _MESSAGE[code])
        self.code = code
        self.detail = detail
        self.details = details
        self.status = status or _STATUS[code]
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON document ``{"errors": [{"code", "message", "detail"}]}``."""
        details = self.details or (self.detail,)
        errors = [{"code": self.code, "message": str(self), "detail": d} for d in details]
        return msgspec.json.encode({"errors": errors}, enc_hook=str)
