"""``strconv.Quote``: the verb ``%q``, in which Go's error messages show what they refuse."""

from __future__ import annotations

_ESCAPES = {
    "\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v",
    "\\": r"\\", '"': r"\"",
}  # fmt: skip


def quote(text: str) -> str:
    """The text between double quotes; what cannot be printed is escaped.

    Bytes that are not UTF-8 (surrogates in Python) are shown as ``\\xff``.
    """
    if text.isprintable() and "\\" not in text and '"' not in text:
        return f'"{text}"'
    return '"' + "".join(map(_escaped, text)) + '"'


def quote_char(character: str) -> str:
    """One character between single quotes, as ``strconv.QuoteRune`` and ``%q`` of a rune."""
    if character == "'":
        return r"'\''"
    return f"'{character if character == chr(34) else _escaped(character)}'"


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
