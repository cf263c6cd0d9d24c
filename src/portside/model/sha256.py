"""SHA-256 for short texts by the interpreter's own code.

``hashlib`` loads OpenSSL's library, which takes 5 ms and more. Contents of files are for
``hashlib``, which is faster per byte.
"""

from __future__ import annotations


def hex_digest(data: bytes) -> str:
    """The digest in hexadecimal digits."""
    return _new(data).hexdigest()


TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256 as _new
else:
    try:
        from _sha2 import sha256 as _new  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256 as _new
        except ImportError:
            from hashlib import sha256 as _new
