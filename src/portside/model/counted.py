"""Numbers of things in messages: ``1 layer``, ``2 layers``."""


def counted(number: int, things: str) -> str:
    """A number with its noun, which is given in the plural (``layers``, ``processes``)."""
    if number != 1:
        return f"{number} {things}"
    for ending, single in (("ies", "y"), ("sses", "ss"), ("s", "")):
        if things.endswith(ending):
            return f"1 {things[: -len(ending)]}{single}"
    return f"1 {things}"
