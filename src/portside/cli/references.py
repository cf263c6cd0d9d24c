"""Image names as users write and read them. The engine normalises; this is for display."""

from __future__ import annotations

HUB = "docker.io"
HUB_ADDRESS = "https://index.docker.io/v1/"
"""Docker Hub's key in config.json, for historical reasons."""


def split(name: str) -> tuple[str, str, str]:
    """Repository, tag and digest; the latter two may be empty."""
    name, _, digest = name.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, "", digest
    return repository, tag, digest


def check(name: str) -> None:
    """Raises InvalidParameter for an invalid image name."""
    from portside.model.reference import Reference

    Reference.parse(name)


def registry(name: str) -> str:
    """The registry's host of an image name, ``docker.io`` when it names none."""
    first, slash, _ = name.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    return first if slash and is_host else HUB


def familiar(name: str) -> str:
    """With a tag, without Docker Hub's prefixes."""
    repository, tag, digest = split(name)
    if registry(repository) == HUB:
        repository = repository.removeprefix("docker.io/").removeprefix("index.docker.io/")
        repository = repository.removeprefix("library/")
    if digest:
        return f"{repository}:{tag}@{digest}" if tag else f"{repository}@{digest}"
    return f"{repository}:{tag or 'latest'}"


def canonical(name: str) -> str:
    """With registry, ``library/`` and tag: ``docker.io/library/busybox:latest``."""
    short = familiar(name)
    if registry(short) != HUB:
        return short
    return f"docker.io/{short if '/' in short else 'library/' + short}"
