"""Names of the images that an engine makes itself when they are first asked for."""

BASE, REGISTRY, MONITOR = "portside/base", "portside/registry", "portside/monitor"
EMBEDDED = frozenset(f"{name}:latest" for name in (BASE, REGISTRY, MONITOR))
"""Names as users see them, with the tag."""
