"""Where the remote files of a project come from: registries, by the engine, and git."""

from __future__ import annotations

from portside.cli import auth, references
from portside.client.client import path_of
from portside.client.errors import Refused
from portside.compose.compose_errors import ComposeError
from portside.compose.remote_files import Artifact
from portside.model import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from portside.client.config import ClientConfig
    from portside.compose.engine_pool import EnginePool


class RemoteSources:
    """Credentials are those of the docker configuration and of git."""

    def __init__(self, config: ClientConfig, pool: Callable[[], EnginePool]) -> None:
        self._config, self._pool = config, pool

    def artifact(self, name: str) -> Artifact:
        """Raises ComposeError and Refused."""
        references.check(name)
        answer = self._get(name, references.canonical(name))
        manifest = jsontext.loads(_bytes(answer["Manifest"]))
        if not isinstance(manifest, dict):
            raise ComposeError(f"{name}: the manifest must be a JSON object")
        return Artifact(answer["Digest"], manifest)

    def layers(self, name: str, digest: str) -> list[bytes]:
        """Raises ComposeError."""
        repository = references.split(references.canonical(name))[0]
        answer = self._get(name, f"{repository}@{digest}", {"blobs": "1"})
        return [_bytes(text) for text in answer["Blobs"]]

    def _get(self, name: str, full: str, query: dict[str, str] | None = None) -> Any:
        path = f"{path_of('portside', 'artifacts', full)}/json"
        headers = auth.header(self._config, full)
        try:
            with self._pool().client() as client:
                return client._value(client.request("GET", path, query, headers=headers))
        except Refused as err:
            raise ComposeError(f'failed to pull OCI resource "{name}": {err}') from None

    def commit(self, remote: str, reference: str) -> str:
        """Raises ComposeError."""
        from portside.cli.build.git_context import GitFailed, commit_of

        try:
            found = commit_of(remote, reference)
        except GitFailed as err:
            raise ComposeError(f"failed to access repository at {remote}:\n {err}") from None
        if not found:
            raise ComposeError(f"repository {remote} does not contain ref {reference}")
        return found

    def check_out(self, remote: str, commit: str, directory: str) -> None:
        """Without submodules, as docker compose. Raises ComposeError."""
        from portside.cli.build.git_context import GitFailed, check_out

        try:
            check_out(remote, commit, directory, is_bounded=True, submodules=False)
        except GitFailed as err:
            raise ComposeError(f"failed to fetch {commit} of {remote}:\n {err}") from None


def _bytes(text: str) -> bytes:
    import binascii

    return binascii.a2b_base64(text)
