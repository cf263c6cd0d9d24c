"""buildx bake: build the targets of a file, all at once."""

from __future__ import annotations

import os
import threading

from portside.cli.bake import (
    bake_files,
    bake_privileges,
    bake_sources,
    bake_targets,
    remote_definition,
)
from portside.cli.bake.hcl_expressions import text_of as hcl_text
from portside.cli.bake.remote_definition import LOCAL
from portside.cli.build import build_command, build_progress
from portside.cli.session import Failed
from portside.cli.verb import verb
from portside.flags.table import parse, read_table
from portside.model import jsontext
from portside.model.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.bake.bake_targets import Target
    from portside.cli.bake.remote_definition import RemoteDefinition
    from portside.cli.build.build_progress import Silent
    from portside.cli.session import Session
    from portside.client.client import Client
    from portside.flags.table import Options

FLAGS = """
      --allow list              Permit targets: device, network.host, security.insecure, ssh,
                                fs=PATH, fs.read=PATH, fs.write=PATH
      --builder string          Accepted and ignored: there is one builder
      --call string             What to do: build, check, outline or targets (default "build")
      --check                   Short for --call=check
  -D, --debug                   Show where an unexpected error came from
  -f, --file list               A bake file: HCL, JSON or Compose
      --list string             List targets or variables instead: targets, variables
      --load                    Short for --set=*.output=type=docker, for targets without output
      --metadata-file string    Write the results' digests and names to a file, as JSON
      --no-cache                Run every step
      --print                   Print the targets instead of building them
      --progress string         How to show progress: auto, none, plain, quiet, rawjson, tty
                                (default "auto")
      --provenance string       Short for --set=*.attest=type=provenance
      --pull                    Look for newer base images
      --push                    Short for --set=*.output=type=registry
      --sbom string             Short for --set=*.attest=type=sbom
      --set list                Change a target: PATTERN.KEY=VALUE, += to add
"""


@verb("buildx bake", "buildx f", "builder bake", usage="[OPTIONS] [URL] [TARGET...]",
      arguments=(0, None), about="Build the targets of a file", flags=FLAGS)  # fmt: skip
def bake(session: Session, options: Options, arguments: list[str]) -> int:
    place, remote = LOCAL, None
    if arguments and remote_definition.is_url(arguments[0]):
        url, *arguments = arguments
        if arguments and remote_definition.is_url(arguments[0]):
            place, *arguments = arguments
        remote = remote_definition.RemoteDefinition(url)
    try:
        return _baked(session, options, arguments, place, remote)
    finally:
        if remote is not None:
            remote.close()


def _baked(
    session: Session, options: Options, arguments: list[str], place: str,
    remote: RemoteDefinition | None,
) -> int:  # fmt: skip
    definitions = bake_files.Definitions(
        dict(os.environ),
        {"BAKE_CMD_CONTEXT": place, "BAKE_LOCAL_PLATFORM": str(Platform.host())},
    )
    bake_sources.read_all(definitions, options.many("file"), remote)
    definitions.check_variables()
    found = bake_targets.Bake(definitions)
    if wanted := options.text("list"):
        from portside.cli.bake import bake_lists

        bake_lists.show(session, wanted, definitions, found)
        return 0
    names = arguments or found.default_names()
    targets = _targets(found, names, options)
    if options.flag("print"):
        shown = {name: _shown(target, remote) for name, target in targets.items()}
        session.out(_printed(_document(found, names, shown)))
        return 0
    bake_privileges.check(targets, options.many("allow"), paths=remote is None)
    if remote is not None:
        for name, target in targets.items():
            remote.check_access(name, target, options.many("allow"))
        targets = {name: remote.located(target) for name, target in targets.items()}
    return Builds(session, options, targets).run()


def _targets(found: bake_targets.Bake, names: list[str], options: Options) -> dict[str, Target]:
    """The requested targets and their dependencies, finished."""
    chosen = found.select(names)
    targets = {name: found.resolved(name) for name in chosen}
    for name in list(targets):
        _link(found, targets, name, ())
    for target in targets.values():
        target.pop("inherits", None)
    bake_targets.override(targets, found, [*_shorthands(options), *options.many("set")])
    for name, target in targets.items():
        if name in chosen:
            _output(target, options)
        else:
            target["output"] = [{"type": "cacheonly"}]
    return {name: bake_targets.finished(targets[name]) for name in sorted(targets)}


def _link(
    found: bake_targets.Bake, targets: dict[str, Target], name: str, path: tuple[str, ...]
) -> None:
    """Targets that are contexts of others."""
    if name in path:
        raise Failed(1, f"ERROR: infinite loop from {' -> '.join([*path, name])}")
    for place in (targets[name].get("contexts") or {}).values():
        if place.startswith("target:"):
            other = place.removeprefix("target:")
            targets.setdefault(other, found.resolved(other))
            _link(found, targets, other, (*path, name))


def _shorthands(options: Options) -> list[str]:
    texts = []
    for name in ("no-cache", "pull"):
        if options.given(name):
            texts.append(f"*.{name}={str(options.flag(name)).lower()}")
    for name in ("provenance", "sbom"):
        if value := options.text(name):
            extra = {"true": "", "false": ",disabled=true"}.get(value.lower(), f",{value}")
            texts.append(f"*.attest=type={name}{extra}")
    if options.flag("check"):
        texts.append("*.call=check")
    elif options.text("call") not in ("", "build"):
        texts.append(f"*.call={options.text('call')}")
    return texts


def _output(target: Target, options: Options) -> None:
    """``--push`` and ``--load``."""
    outputs = target.get("output") or []
    if options.flag("push"):
        if not outputs:
            target["output"] = [{"push": "true", "type": "image"}]
        else:
            target["output"] = [
                {**item, "push": "true"} if item["type"] == "image" else item for item in outputs
            ]
    if options.flag("load") and not any(item["type"] in ("docker",) for item in outputs):
        kept = [item for item in target.get("output") or [] if item["type"] != "cacheonly"]
        target["output"] = [*kept, {"type": "docker"}]


def _document(
    found: bake_targets.Bake, names: list[str], targets: dict[str, Target]
) -> dict[str, Any]:
    groups = {}
    for name in found.groups_of(names):
        group = found.groups[name]
        description = {"description": group["description"]} if group.get("description") else {}
        groups[name] = {**description, "targets": list(group["targets"])}
    members = [name for name in names if name != "default" or name not in found.groups]
    if members or "default" in groups:
        default = groups.setdefault("default", {"targets": []})
        default["targets"] = sorted({*default["targets"], *members})
    return {"group": dict(sorted(groups.items())), "target": targets}


def _shown(target: Target, remote: RemoteDefinition | None) -> Target:
    """With the remote in place of ``.``, and the folders of ``cwd://`` as they are here."""
    place = target["context"]
    if place.startswith(LOCAL):
        place = os.path.normpath(place.removeprefix(LOCAL) or ".")
    elif place == "." and remote is not None and remote.is_git:
        place = remote.url
    return {**target, "context": place}


def _printed(document: dict[str, Any]) -> str:
    """JSON that is a bake file again: what would be a template is escaped."""
    text = jsontext.dumps(document, "  ").replace("${", "$${").replace("%{", "%%{")
    for sign in "<>&":  # as Go writes them
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


# -- building -------------------------------------------------------------------------------


class _Shared:
    """One progress display for all builds; steps are named after their targets."""

    def __init__(self, display: Silent) -> None:
        self._display, self._lock = display, threading.Lock()
        self.timeout = display.timeout

    def show(self, target: str, message: dict[str, Any]) -> None:
        for entry in message.get("vertexes") or ():
            entry["digest"] = f"{target} {entry['digest']}"
            name = entry.get("name", "")
            if name.startswith("["):
                entry["name"] = f"[{target} {name[1:]}"
            else:
                entry["name"] = f"[{target}] {name}"
        for key in ("statuses", "logs", "warnings"):
            for entry in message.get(key) or ():
                entry["vertex"] = f"{target} {entry['vertex']}"
        with self._lock:
            self._display.show(message)

    def tick(self) -> None:
        with self._lock:
            self._display.tick()


class _Progress(build_progress.Silent):
    """A build's own record, shown by the shared display."""

    def __init__(self, shared: _Shared, target: str) -> None:
        super().__init__()
        self._shared, self._target = shared, target
        self.timeout = shared.timeout

    def show(self, message: dict[str, Any]) -> None:
        super().show(jsontext.loads(jsontext.dumps(message)))
        self._shared.show(self._target, message)

    def tick(self) -> None:
        self._shared.tick()


class _Run(build_command.BuildRun):
    """One target's build."""

    def __init__(self, session: Session, options: Options, shared: _Shared, target: str) -> None:
        super().__init__(session, options)
        self._shared, self._target = shared, target
        self.result: dict[str, Any] = {}

    def _client(self) -> Client:
        return self._session.another_client()

    def _display(self) -> Silent:
        return _Progress(self._shared, self._target)

    def _report_result(
        self, request: dict[str, Any], result: dict[str, Any], progress: Silent
    ) -> int:
        self.result = result
        return super()._report_result(request, result, progress)


class Builds:
    """All targets; each waits for the targets that are its contexts."""

    def __init__(self, session: Session, options: Options, targets: dict[str, Target]) -> None:
        self._session, self._options, self._targets = session, options, targets
        self._done: dict[str, threading.Event] = {name: threading.Event() for name in targets}
        self._errors: dict[str, Failed] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._layouts: dict[str, str] = {}

    def run(self) -> int:
        import tempfile

        mode = build_command.mode_of(self._options)
        _ = self._session.client  # an engine is started once, before the threads
        display = build_command.display_of(mode)
        shared = _Shared(display)
        used = {place.removeprefix("target:") for target in self._targets.values()
                for place in (target.get("contexts") or {}).values()
                if place.startswith("target:")}  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="portside-bake-") as directory:
            self._layouts = {name: os.path.join(directory, name) for name in used}
            threads = [
                threading.Thread(target=self._one, args=(name, shared, mode), daemon=True)
                for name in self._targets
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        display.close(bool(self._errors))
        for error in self._errors.values():
            raise error
        self._metadata()
        return 0

    def _one(self, name: str, shared: _Shared, mode: str) -> None:
        target = self._targets[name]
        try:
            contexts = {}
            for key, place in (target.get("contexts") or {}).items():
                other = place.removeprefix("target:")
                if other != place:
                    self._done[other].wait()
                    if other in self._errors:
                        raise Failed(1, f"ERROR: target {name}: failed to build {other}")
                    place = f"oci-layout://{self._layouts[other]}"
                contexts[key] = place.removeprefix(LOCAL) or "."
            words = _words({**target, "contexts": contexts}, self._options, mode)
            if name in self._layouts:
                words.insert(0, f"--output=type=oci,tar=false,dest={self._layouts[name]}")
            options, (place,) = parse(read_table(build_command.FLAGS), words, convert=_convert)
            run = _Run(self._session, options, shared, name)
            run.inline = target.get("dockerfile-inline")
            run.run(place)
            self._results[name] = run.result
        except Failed as err:
            text = str(err).removeprefix("ERROR: failed to build: ")
            self._errors[name] = Failed(err.status, f"ERROR: target {name}: {text}")
        except Exception as err:
            self._errors[name] = Failed(1, f"ERROR: target {name}: {err}")
        finally:
            self._done[name].set()

    def _metadata(self) -> None:
        path = self._options.text("metadata-file")
        if not path:
            return
        found = {name: build_command.metadata_of(result)
                 for name, result in sorted(self._results.items())}  # fmt: skip
        build_command.write(path, jsontext.dumps(found, "  "))


def _convert(kind: str, text: str) -> Any:
    from portside.cli.flag_values import convert

    return convert(kind, text)


_LISTED = {"tags": "tag", "platforms": "platform", "annotations": "annotation",
           "no-cache-filter": "no-cache-filter", "ulimits": "ulimit",
           "entitlements": "allow"}  # fmt: skip
_ENTRIES = {"attest": "attest", "cache-from": "cache-from", "cache-to": "cache-to",
            "output": "output", "secret": "secret"}  # fmt: skip
_TEXTS = ("target", "network", "shm-size", "call")


def _words(target: Target, options: Options, mode: str) -> list[str]:
    """A target as the arguments of ``build``."""
    words = [f"--progress={mode}"]
    for key, flag in _LISTED.items():
        words += [f"--{flag}={text}" for text in target.get(key, ())]
    for key, flag in _ENTRIES.items():
        words += [f"--{flag}={_csv(entry)}" for entry in target.get(key, ())]
    for key in _TEXTS:
        if target.get(key):
            words.append(f"--{key}={target[key]}")
    for key, flag, sign in (("args", "build-arg", "="), ("labels", "label", "="),
                            ("contexts", "build-context", "="),
                            ("extra-hosts", "add-host", "=")):  # fmt: skip
        words += [f"--{flag}={name}{sign}{value}" for name, value in target.get(key, {}).items()]
    for entry in target.get("ssh", ()):
        paths = ",".join(entry.get("paths", ()))
        words.append(f"--ssh={entry['id']}" + (f"={paths}" if paths else ""))
    words += [f"--{key}" for key in ("no-cache", "pull") if target.get(key)]
    place = target["context"].removeprefix(LOCAL) or "."
    dockerfile = target["dockerfile"]
    if dockerfile.startswith(LOCAL):
        dockerfile = os.path.abspath(dockerfile.removeprefix(LOCAL))
    elif not bake_targets.is_remote(place) and not os.path.isabs(dockerfile):
        dockerfile = os.path.join(place, dockerfile)
    if not target.get("dockerfile-inline") and (
        target["dockerfile"] != "Dockerfile" or not bake_targets.is_remote(place)
    ):
        words.append(f"--file={dockerfile}")
    return [*words, "--", place]


def _csv(entry: dict[str, Any]) -> str:
    import csv
    import io

    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([f"{k}={hcl_text(v)}" for k, v in entry.items()])
    return out.getvalue()
