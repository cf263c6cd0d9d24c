"""The ``portside registry`` command: serve, collect, and robot tokens."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from portside.model.errors import InvalidParameter, PortsideError
from portside.registry.server.config import Settings, load, seconds

_SETTINGS = """\
The settings are those of the distribution registry (registry:2), as variables such as
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="portside registry", description="A registry server")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    commands = {
        "serve": "Serve the OCI distribution-spec over HTTP",
        "garbage-collect": "Remove blobs that no manifest names (also safe while serving files)",
        "token": "Create, list and remove robot tokens",
    }
    made = {}
    for name, text in commands.items():
        made[name] = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=_SETTINGS if name == "serve" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    made["serve"].add_argument("config", nargs="?", help="YAML file in distribution's form")
    made["serve"].add_argument("--addr", help="Address to listen on (overrides http.addr)")
    made["serve"].add_argument("--root", help="Directory of the data (overrides the settings)")
    collect = made["garbage-collect"]
    collect.add_argument("config", nargs="?", help="YAML file in distribution's form")
    collect.add_argument("-d", "--dry-run", action="store_true", help="Only tell what would go")
    collect.add_argument(
        "-m", "--delete-untagged", action="store_true", help="Manifests without a tag go too"
    )
    token = made["token"].add_subparsers(dest="action", required=True, metavar="ACTION")
    create = token.add_parser("create", help="Create a robot and print its token once")
    create.add_argument("name")
    create.add_argument("--repository", default="**", help="Pattern of repositories (default **)")
    create.add_argument("--actions", default="pull", help="Of pull,push,delete (default pull)")
    create.add_argument("--ttl", default="", help="How long it is good, such as 720h")
    remove = token.add_parser("rm", help="Remove a robot")
    remove.add_argument("name")
    for sub in (create, remove, token.add_parser("ls", help="List robots")):
        sub.add_argument("--config", help="YAML file in distribution's form")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    environ = dict(os.environ)
    if getattr(options, "addr", None):
        environ["REGISTRY_HTTP_ADDR"] = options.addr
    if getattr(options, "root", None):
        environ["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY"] = options.root
    return load(options.config, environ)


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
        f"{would} {done.tags} tags, {done.manifests} manifests, {done.links} links, "
        f"{done.blobs} blobs ({done.bytes} bytes)"
    )


def _token(settings: Settings, options: argparse.Namespace) -> None:
    from portside.registry.server.auth import ACTIONS, Robots

    robots = Robots(settings.state / "robots.json")
    if options.action == "create":
        actions = tuple(options.actions.split(","))
        if unknown := set(actions) - set(ACTIONS):
            raise InvalidParameter(f"unknown action {min(unknown)!r}: use pull, push, delete")
        ttl = seconds(options.ttl) if options.ttl else 0
        print(robots.create(options.name, options.repository, actions, ttl))
    elif options.action == "rm":
        if not robots.remove(options.name):
            raise InvalidParameter(f"no such robot: {options.name}")
        print(options.name)
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
    options = _parser().parse_args(given)
    os.umask(0o077)  # blobs, keys and logs are for this user alone
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)  # the data is the registry's alone
    try:
        settings = _settings(options)
        if options.verb == "serve":
            _serve(settings)
        elif options.verb == "garbage-collect":
            import asyncio

            asyncio.run(_collect(settings, options.dry_run, options.delete_untagged))
        else:
            _token(settings, options)
    except (PortsideError, OSError) as err:
        print(f"portside registry: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
