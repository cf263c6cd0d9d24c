"""Builds for ``portside build``: one connection for the context, secrets, agents and progress."""
