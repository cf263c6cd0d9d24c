"""JSON as Go's decoder reads it, for bodies that a strict decoder refuses.

Go takes null for the zero value of whatever is there, at any depth, and finds a struct's
fields whatever their case. Only what was refused comes here: it is given the form that
passes, guided by the type, and decoded once more.
"""

from __future__ import annotations

from typing import Any

from msgspec import inspect

_ZERO: dict[type[inspect.Type], Any] = {
    inspect.StrType: "",
    inspect.IntType: 0,
    inspect.BoolType: False,
    inspect.FloatType: 0.0,
    inspect.DictType: {},
    inspect.StructType: {},
}


def settled(value: Any, kind: Any) -> Any:
    """``value`` without the nulls and the spellings that ``kind`` does not take."""
    return _settled(value, inspect.type_info(kind))


def _settled(value: Any, kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.Metadata):
        return _settled(value, kind.type)
    if isinstance(kind, inspect.UnionType):
        if value is None and any(isinstance(each, inspect.NoneType) for each in kind.types):
            return None
        return _settled(value, kind.types[0])
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return _struct(value, kind)
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {name: _settled(each, kind.value_type) for name, each in value.items()}
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        return [_settled(each, kind.item_type) for each in value]
    return _ZERO.get(type(kind)) if value is None else value


def _struct(value: dict[str, Any], kind: inspect.StructType) -> dict[str, Any]:
    """Null is a field's absence; a name that fits but for its case is the field's."""
    fields = {field.encode_name.lower(): field for field in kind.fields}
    found: dict[str, Any] = {}
    for name, each in value.items():
        field = fields.get(name.lower())
        if field is not None and each is not None:
            found[field.encode_name] = _settled(each, field.type)
    return found
