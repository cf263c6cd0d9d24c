"""build: an image from a Dockerfile."""

from __future__ import annotations

import os
import sys
import time

from portside.cli.build import build_progress
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.model import build_frames as wire
from portside.model.errors import PortsideError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from portside.cli.build.build_connection import Channel
    from portside.cli.build.build_contexts import Contexts
    from portside.cli.build.build_outputs import Outputs
    from portside.cli.build.build_progress import Silent
    from portside.cli.build.build_secrets import Agents, Secrets
    from portside.cli.build.build_shell import Shell
    from portside.cli.build.build_stores import Stores
    from portside.cli.session import Session
    from portside.client.client import Client
    from portside.flags.table import Options

FLAGS = """
      --add-host list           Add a host's name and address to steps (NAME:IP)
      --allow list              Permit steps to use: device, network.host, security.insecure
      --annotation list         An annotation of the image: [index:|manifest:]KEY=VALUE
      --attest list             An attestation of the image: type=provenance|sbom[,KEY=VALUE]
      --build-arg list          Set a variable that the Dockerfile declares with ARG
      --build-context list      Additional context: NAME=PATH, NAME=docker-image://IMAGE, NAME=URL
      --builder string          Accepted and ignored: there is one builder
      --cache-from list         A cache to use: IMAGE, type=registry,ref=NAME, type=local,src=DIR
      --cache-to list           Where to keep the cache: type=inline, type=registry,ref=NAME,
                                type=local,dest=DIR; mode=min|max
      --call string             What to do: build, check, outline or targets (default "build")
      --cgroup-parent string    Parent of the steps' control groups
      --check                   Short for --call=check
  -D, --debug                   Show where an unexpected error came from
  -f, --file string             The Dockerfile (default "PATH/Dockerfile")
      --iidfile string          Write the image's ID to a file
      --label list              Set a label of the image
      --load                    Short for --output=type=docker
      --metadata-file string    Write the result's digests and names to a file, as JSON
      --network string          Network of steps: default, host or none (default "default")
      --no-cache                Run every step
      --no-cache-filter list    Run every step of these stages
      --on-fail string          What to do when a step fails: exit, or a shell in it
                                (default "exit")
  -o, --output list             Where the result goes: type=local,dest=DIR and others
      --platform list           Platform of the image
      --progress string         How to show progress: auto, none, plain, quiet, rawjson, tty
                                (default "auto")
      --provenance string       Short for --attest=type=provenance: true, false, mode=min|max
      --pull                    Look for newer base images
      --push                    Short for --output=type=registry
  -q, --quiet                   Print nothing but the image's ID at the end
      --sbom string             Short for --attest=type=sbom: true, false
      --secret list             A secret for steps: id=NAME[,src=FILE|,env=VARIABLE]
      --shm-size bytes          Size of /dev/shm in steps
      --ssh list                An ssh agent, or keys, for steps: default|ID[=SOCKET|=KEY[,KEY]]
  -t, --tag list                A name for the image (NAME[:TAG])
      --target string           The stage to build
      --timings                 Print how long each step took, at the end
      --ulimit ulimit           A limit of the steps' processes
"""


@verb("buildx build", "build", "image build", "builder build", "buildx b",
      usage="[OPTIONS] PATH | URL | -", arguments=(1, 1),
      about="Build an image from a Dockerfile", flags=FLAGS)  # fmt: skip
def build(session: Session, options: Options, arguments: list[str]) -> int:
    return BuildRun(session, options).run(arguments[0])


class BuildRun:
    """One build by the command line."""

    def __init__(self, session: Session, options: Options) -> None:
        self._session, self._options = session, options
        self.inline: str | None = None
        """The Dockerfile's text, in place of a file."""

    def run(self, place: str) -> int:
        """The exit status. Raises Failed."""
        from portside.cli.build import build_request
        from portside.cli.build.build_contexts import Contexts
        from portside.cli.build.build_outputs import Outputs
        from portside.cli.build.build_secrets import Agents, Secrets
        from portside.cli.build.build_stores import Caches, Stores

        options = self._options
        self._mode = mode_of(options)
        request = build_request.of(self._session, options)
        stores = Stores()
        caches = Caches(stores, options.many("cache-from"), options.many("cache-to"))
        outputs = Outputs(options, options.many("tag"), stores)
        secrets = Secrets(options.many("secret"))
        contexts = Contexts(bool(self._session.endpoint.path), stores)
        agents = Agents(options.many("ssh"))
        try:
            for text in options.many("build-context"):
                contexts.named(text)
            contexts.main(place, options.text("file"), self.inline)
            request |= {
                "dockerfile": contexts.dockerfile, "file": contexts.file,
                "contexts": contexts.request, "outputs": outputs.request,
                "secrets": secrets.ids, "ssh": agents.ids, "cache_from": caches.sources,
                "cache_to": caches.targets,
                "shell": options.text("on-fail") == "shell",
                "tty": os.isatty(0),
            }  # fmt: skip
            result, progress = self._built(
                request, contexts, _Answers(
                    self._session, contexts, secrets, agents, outputs, stores
                ),
            )  # fmt: skip
        finally:
            agents.close()
            contexts.close()
        for warning in caches.warnings:
            self._session.warn(warning)
        if "error" not in result:
            caches.exported(result.get("caches") or {})
            outputs.exported(result.get("metadata") or {})
        return self._report_result(request, result, progress)

    def _built(
        self, request: dict[str, Any], contexts: Contexts, answers: _Answers
    ) -> tuple[dict[str, Any], Silent]:
        from portside.cli.build.build_connection import BuildConnection

        client = self._client()
        progress = self._display()
        try:
            connection = BuildConnection(client, request, contexts.directories, answers.of)
        except PortsideError as err:
            raise Failed(1, f"ERROR: failed to build: {err}") from None
        answers.progress = progress
        if request["shell"]:
            from portside.cli.build.build_shell import Shell

            answers.shell = Shell()
        result: dict[str, Any] = {}
        try:
            for kind, value in connection.messages(progress.timeout):
                if kind == wire.EVENT:
                    progress.show(value)
                elif kind == wire.RESULT:
                    result = value
                else:
                    progress.tick()
        except Unavailable as err:
            result = {"error": str(err)}
        except KeyboardInterrupt:
            result = {"error": "Canceled: context canceled", "status": 130}
        finally:
            connection.close()
        progress.close("error" in result)
        return result, progress

    def _client(self) -> Client:
        return self._session.client

    def _display(self) -> Silent:
        return display_of(self._mode)

    def _report_result(
        self, request: dict[str, Any], result: dict[str, Any], progress: Silent
    ) -> int:
        if "error" in result:
            sys.stderr.write(build_progress.failure(progress.record, result))
            self._timings(progress)
            raise Failed(
                int(result.get("status", 1)),
                f"ERROR: failed to build: failed to solve: {result['error']}",
            )
        if "call" in result:
            from portside.cli.build import build_calls

            return build_calls.show(self._session, self._options, request["call"], result["call"])
        if self._mode not in ("quiet", "none", "rawjson"):
            sys.stderr.write(build_progress.warnings(progress.record))
        self._timings(progress)
        self._files(result)
        image = (result.get("metadata") or {}).get("containerimage.digest")
        if self._mode == "quiet" and image:
            self._session.out(image)
        return 0

    def _files(self, result: dict[str, Any]) -> None:
        """``--iidfile`` and ``--metadata-file``."""
        from portside.model import jsontext

        metadata = result.get("metadata") or {}
        if path := self._options.text("iidfile"):
            write(path, metadata.get("containerimage.digest", ""))
        if path := self._options.text("metadata-file"):
            write(path, jsontext.dumps(metadata_of(result), "  "))

    def _timings(self, progress: Silent) -> None:
        """``--timings``: the steps that took longest first."""
        if not self._options.flag("timings"):
            return
        vertices = [v for v in progress.record.vertices.values() if v.started]
        total = time.time() - progress.record.began
        lines = [f"{'TIME':>9}  STEP"]
        for vertex in sorted(vertices, key=lambda v: -v.seconds):
            cached = "CACHED " if vertex.cached else ""
            lines.append(f"{vertex.seconds:>8.3f}s  {cached}{vertex.name}")
        sys.stderr.write("\n" + "\n".join([*lines, f"{total:>8.3f}s  in all"]) + "\n")


class _Answers:
    """Answers to the engine's requests."""

    def __init__(
        self, session: Session, contexts: Contexts, secrets: Secrets, agents: Agents,
        outputs: Outputs, stores: Stores,
    ) -> None:  # fmt: skip
        self._session, self._contexts, self._stores = session, contexts, stores
        self._secrets, self._agents, self._outputs = secrets, agents, outputs
        self.progress: Silent | None = None
        self.shell: Shell | None = None

    def of(self, wanted: dict[str, Any]) -> Callable[[Channel], None]:
        from portside.cli.build.build_connection import RefusedAnswer

        if "secret" in wanted:
            return lambda channel: self._secrets.send(channel, wanted["secret"])
        if "ssh" in wanted:
            return lambda channel: self._agents.relay(channel, wanted["ssh"])
        if "context" in wanted:
            return lambda channel: self._contexts.send(
                channel, wanted["context"], wanted.get("paths")
            )
        if "store" in wanted:
            return lambda channel: self._stores.answer(channel, wanted)
        if "shell" in wanted:
            return lambda channel: self._shell_in(channel, wanted)
        if "output" in wanted:
            return lambda channel: self._outputs.write(channel, wanted["output"])
        if "credentials" in wanted:
            return lambda channel: self._credentials(channel, wanted["credentials"])

        def refuse(channel: Channel) -> None:
            raise RefusedAnswer("this client does not support the request")

        return refuse

    def _shell_in(self, channel: Channel, wanted: dict[str, Any]) -> None:
        from portside.cli.build.build_connection import RefusedAnswer

        if self.shell is None:
            raise RefusedAnswer("no shell was requested")
        self.shell.run(channel, self.progress, wanted["shell"], int(wanted["code"]))

    def _credentials(self, channel: Channel, registry: str) -> None:
        from portside.cli import auth
        from portside.model import jsontext

        found = auth.usable(self._session.config, registry)
        channel.send([jsontext.dumps(found).encode()] if found else [])
        channel.end()


def metadata_of(result: dict[str, Any]) -> dict[str, Any]:
    """What ``--metadata-file`` contains."""
    from binascii import a2b_base64

    from portside.model import jsontext

    metadata = result.get("metadata") or {}
    found = {"buildx.build.ref": f"default/default/{result.get('ref', '')}", **metadata}
    if descriptor := found.get("containerimage.descriptor"):
        found["containerimage.descriptor"] = jsontext.loads(a2b_base64(descriptor))
    return dict(sorted(found.items()))


def mode_of(options: Options) -> str:
    mode = options.text("progress") or os.environ.get("BUILDKIT_PROGRESS", "") or "auto"
    if mode not in build_progress.MODES:
        raise Failed(1, f"ERROR: invalid progress mode {mode}")
    if options.text("on-fail", "exit") not in ("exit", "shell"):
        raise Failed(1, "ERROR: --on-fail is exit or shell")
    if options.flag("quiet"):
        if mode not in ("auto", "quiet"):
            raise Failed(1, f"ERROR: progress={mode} and quiet cannot be used together")
        return "quiet"
    if mode == "auto":
        return "tty" if os.isatty(2) and not options.flag("check") else "plain"
    return mode


def display_of(mode: str) -> Silent:
    if mode == "tty":
        from portside.cli.build.build_screen import Screen

        return Screen()
    kinds = {"plain": build_progress.Plain, "rawjson": build_progress.RawJson}
    return kinds.get(mode, build_progress.Silent)()


def write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        why = (err.strerror or "").lower()
        raise Failed(1, f"ERROR: failed to build: open {path}: {why}") from None
