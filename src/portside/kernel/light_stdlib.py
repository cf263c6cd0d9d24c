"""``suppress``, ``contextmanager`` and ``cache`` of the standard library's ``contextlib`` and
``functools``, for modules that a container's start imports: those two take collections, operator
and reprlib along, a tenth of the imports of ``portside-runtime create``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import contextmanager as contextmanager
    from contextlib import suppress as suppress
    from functools import cache as cache
else:

    class suppress:
        """Like contextlib.suppress; groups of exceptions are not split."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._kinds)

    class _Context:
        def __init__(self, steps):
            self._steps = steps

        def __enter__(self):
            for value in self._steps:
                return value
            raise RuntimeError("generator didn't yield")

        def __exit__(self, kind, error, trace):
            if error is None:
                for _ in self._steps:
                    raise RuntimeError("generator didn't stop")
                return False
            try:
                self._steps.throw(error)
            except StopIteration:
                return True  # it has dealt with the error
            except BaseException as raised:
                if raised is not error:
                    raise
                return False  # the caller's own error continues, as it was
            raise RuntimeError("generator didn't stop after throw()")

    def contextmanager(function):
        """Like contextlib.contextmanager; the result is not usable as a decorator."""

        def made(*arguments, **named):
            return _Context(function(*arguments, **named))

        made.__name__, made.__doc__ = function.__name__, function.__doc__
        made.__wrapped__ = function
        return made

    def cache(function):
        """Like functools.cache, for positional arguments only."""
        results = {}

        def cached(*arguments):
            if arguments not in results:
                results[arguments] = function(*arguments)
            return results[arguments]

        cached.__name__, cached.__doc__ = function.__name__, function.__doc__
        cached.__wrapped__, cached.cache_clear = function, results.clear
        return cached
