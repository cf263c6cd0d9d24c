"""Media types of a Compose project in a registry, as docker compose defines them."""

ARTIFACT = "application/vnd.docker.compose.project"
FILE = "application/vnd.docker.compose.file+yaml"
ENV_FILE = "application/vnd.docker.compose.envfile"
OLD_CONFIG = "application/vnd.docker.compose.config.empty.v1+json"
"""Identifies the kind of artifact in image-spec 1.0, which has no artifactType."""
