"""``dataclass`` for modules that a command imports: for type checkers the standard library's.

``import dataclasses`` takes 10 to 20 ms, most of it for ``inspect``, and every decorated class
compiles its methods. This one gives a class its ``__init__`` and nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    _MISSING = object()

    class field:
        """A field's default, or what makes one."""

        def __init__(self, *, default=_MISSING, default_factory=None):
            self.default, self.default_factory = default, default_factory

    def dataclass(cls):
        """Add an ``__init__`` that takes the annotated names, in order or by name."""
        own = cls.__annotations__
        names = [*getattr(cls, "__record_fields__", ()), *own]
        cls.__record_fields__ = tuple(dict.fromkeys(names))
        defaults = dict(getattr(cls, "__record_defaults__", {}))
        for name in own:
            if name in cls.__dict__:
                value = cls.__dict__[name]
                defaults[name] = value if isinstance(value, field) else field(default=value)
        cls.__record_defaults__ = defaults
        cls.__init__ = _init
        return cls

    def _init(self, *given, **named):
        fields = self.__record_fields__
        if len(given) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} arguments")
        values = dict(zip(fields, given, strict=False))
        for name, value in named.items():
            if name in values or name not in fields:
                raise TypeError(f"{type(self).__name__}: argument {name!r} is not expected")
            values[name] = value
        for name in fields:
            if name not in values:
                made = self.__record_defaults__.get(name)
                if made is None:
                    raise TypeError(f"{type(self).__name__}: argument {name!r} is missing")
                values[name] = made.default_factory() if made.default_factory else made.default
            setattr(self, name, values[name])
        after = getattr(self, "__post_init__", None)
        if after is not None:
            after()

    def replace(record, **changes):
        """A copy with other values of some fields."""
        values = {name: getattr(record, name) for name in record.__record_fields__}
        return type(record)(**{**values, **changes})


__all__ = ["dataclass", "field", "replace"]
