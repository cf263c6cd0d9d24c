"""The ``portside registry`` command: serve, collect, and robot tokens."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from portside.flags.help_text import of_flags
from portside.flags.table import HelpWanted, Options, UsageError, parse, read_table
from portside.model.errors import InvalidParameter, PortsideError
from portside.registry.server.config import Settings, load, seconds

_SETTINGS = """\
The settings are the distribution registry's (registry:2), as variables such as
REGISTRY_HTTP_ADDR or in the file. Beyond them:

  auth:
    htpasswd: {path: /auth/htpasswd}     users; their rights are all, or as below
    bearer: {enabled: true}              issue tokens at /token, too
  portside:
    rights:                              the first that fits user and repository decides
      - {user: ci, repository: "team/**", actions: [pull, push, delete]}
      - {user: anonymous, repository: "public/*", actions: [pull]}
    quotas: [{repository: "team/*", bytes: 10000000000}]
    retention: [{repository: "**", keep_tags: 10, keep_days: 30, keep_pattern: "v.*"}]
    gc_interval: 24h                     apply retention and collect this often (or never)
    gc_grace: 1h                         what is younger than this stays
    audit: /var/log/registry-audit.log   who changed what, one JSON document a line
    metrics: true                        for Prometheus at /metrics
    page: true                           browse at /
"""


_CONFIG = """
      --config string       YAML file in the form of the distribution registry
"""
_VERBS = {
    "serve": ("[CONFIG]", "Serve the OCI distribution-spec over HTTP", 1, """
      --addr string   Address to listen on (overrides http.addr)
      --root string   Directory of the data (overrides the settings)
"""),
    "garbage-collect": ("[CONFIG]", "Remove blobs that no manifest names", 1, """
  -m, --delete-untagged   Remove manifests without a tag, too
  -d, --dry-run           Only print what would be removed
"""),
    "token create": ("NAME", "Create a robot and print its token once", 1, _CONFIG + """
      --actions string      Of pull,push,delete (default "pull")
      --repository string   Pattern of repositories (default "**")
      --ttl string          How long the token is valid, such as 720h
"""),
    "token ls": ("", "List robots", 0, _CONFIG),
    "token rm": ("NAME", "Remove a robot", 1, _CONFIG),
}  # fmt: skip
"""By verb: arguments, description, maximum number of arguments, flags."""


def _help(verb: str = "") -> str:
    program = "portside registry"
    if verb not in _VERBS:
        lines = "\n".join(f"  {name:<18}{found[1]}" for name, found in _VERBS.items())
        return (
            f"Usage:  {program} COMMAND\n\nA registry server\n\nCommands:\n{lines}\n\n"
            f"Run '{program} COMMAND --help' for more information on a command.\n"
        )
    arguments, about, _, table = _VERBS[verb]
    usage = f"{program} {verb} [OPTIONS] {arguments}".rstrip()
    settings = f"\n{_SETTINGS}" if verb == "serve" else ""
    return f"Usage:  {usage}\n\n{about}\n\nOptions:\n{of_flags(read_table(table))}\n{settings}"


def _verb_of(words: list[str]) -> tuple[str, list[str]]:
    """The verb and the words after it. Raises UsageError, HelpWanted."""
    for length in (2, 1):
        verb = " ".join(words[:length])
        if verb in _VERBS:
            return verb, words[length:]
    if not words or words[0] in ("-h", "--help", "help") or words[1:2] in (["-h"], ["--help"]):
        raise HelpWanted
    raise UsageError(f"unknown command: portside registry {words[0]}")


def _settings(options: Options, config: str) -> Settings:
    environ = dict(os.environ)
    if options.text("addr"):
        environ["REGISTRY_HTTP_ADDR"] = options.text("addr")
    if options.text("root"):
        environ["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"] = options.text("root")
    return load(config or None, environ)


def _serve(settings: Settings) -> None:
    """Listen first: clients that come while the rest is imported wait instead of being refused."""
    from portside.registry.server.sockets import Listening

    listening = Listening.of(settings)
    try:
        import asyncio

        from portside.registry.server.serve import serve

        asyncio.run(serve(settings, listening))
    finally:
        listening.close()


async def _collect(settings: Settings, dry_run: bool, untagged: bool) -> None:
    from portside.model.counted import counted
    from portside.registry.server.app import make_app
    from portside.registry.server.context import REGISTRY
    from portside.registry.server.gc import Collector

    root = Path(settings.storage.filesystem.rootdirectory)
    if settings.storage.s3 is None and not root.is_dir():
        raise InvalidParameter(f"nothing to collect: no directory {root}")
    registry = make_app(settings)[REGISTRY]
    ours = settings.portside
    collector = Collector(registry.content, seconds(ours.gc_grace), ours.retention)
    done = await collector.run(untagged=untagged, dry_run=dry_run)
    would = "would remove" if dry_run else "removed"
    print(
        f"{would} {counted(done.tags, 'tags')}, {counted(done.manifests, 'manifests')}, "
        f"{counted(done.links, 'links')}, {counted(done.blobs, 'blobs')} "
        f"({counted(done.bytes, 'bytes')})"
    )


def _token(settings: Settings, action: str, name: str, options: Options) -> None:
    from portside.registry.server.auth import ACTIONS, Robots

    robots = Robots(settings.state / "robots.json")
    if action == "create":
        actions = tuple(options.text("actions", "pull").split(","))
        if unknown := set(actions) - set(ACTIONS):
            raise InvalidParameter(f"unknown action {min(unknown)!r}: use pull, push, delete")
        ttl = seconds(options.text("ttl")) if options.given("ttl") else 0
        print(robots.create(name, options.text("repository", "**"), actions, ttl))
    elif action == "rm":
        if not robots.remove(name):
            raise InvalidParameter(f"no such robot: {name}")
        print(name)
    else:
        print(f"{'NAME':<20} {'REPOSITORY':<30} {'ACTIONS':<20} EXPIRES")
        for robot in robots.list():
            until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(robot.expires))
            expires = until if robot.expires else "never"
            allowed = ",".join(robot.actions)
            print(f"{robot.name:<20} {robot.repository:<30} {allowed:<20} {expires}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is returned."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0].endswith((".yml", ".yaml")):
        given.insert(0, "serve")  # as the entry points of other registries' images take it
    verb = ""
    try:
        verb, words = _verb_of(given)
        options, operands = parse(read_table(_VERBS[verb][3]), words)
        _check_count(verb, operands)
    except HelpWanted:
        print(_help(verb), end="")
        return 0
    except UsageError as err:
        name = f"portside registry {verb}".rstrip()
        print(f"portside registry: {err}\n\nRun '{name} --help' for more information",
              file=sys.stderr)  # fmt: skip
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)  # the data is the registry's alone
    try:
        _run(verb, options, operands)
    except (PortsideError, OSError) as err:
        print(f"portside registry: {getattr(err, 'strerror', None) or err}", file=sys.stderr)
        return 1
    return 0


def _check_count(verb: str, operands: list[str]) -> None:
    needed, _, most, _ = _VERBS[verb]
    if len(operands) > most or (needed == "NAME" and not operands):
        count = "a name" if needed == "NAME" else "no argument" if not most else "one file"
        raise UsageError(f"'{verb}' takes {count}")


def _run(verb: str, options: Options, operands: list[str]) -> None:
    kind, _, action = verb.partition(" ")
    first = operands[0] if operands else ""
    settings = _settings(options, options.text("config") if kind == "token" else first)
    if kind == "serve":
        _serve(settings)
    elif kind == "garbage-collect":
        import asyncio

        asyncio.run(_collect(settings, options.flag("dry-run"), options.flag("delete-untagged")))
    else:
        _token(settings, action, first, options)


if __name__ == "__main__":
    sys.exit(main())
