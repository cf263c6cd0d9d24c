"""Which module has which verb. Nothing else is imported to find out."""

from __future__ import annotations

_FAMILIES = {
    "run": "run, create, container run, container create",
    "lifecycle": "start, stop, restart, kill, pause, unpause, wait, rm, rename, "
    "container start, container stop, container restart, container kill, container pause, "
    "container unpause, container wait, container rm, container remove, container rename",
    "attach_exec_logs": "attach, exec, logs, container attach, container exec, container logs",
    "ps": "ps, container ls, container list, container ps",
    "inspect": "inspect, port, top, diff, container inspect, container port, container top, "
    "container diff, image inspect, network inspect, volume inspect",
    "stats": "stats, container stats",
    "screen.screen_verb": "ui",
    "update": "update, container update",
    "cp": "cp, export, import, commit, container cp, container export, container commit, "
    "image import",
    "explain": "explain, container explain",
    "images": "images, rmi, tag, history, save, load, image ls, image list, image rm, "
    "image remove, image tag, image history, image save, image load",
    "pull_push": "pull, push, search, image pull, image push",
    "login": "login, logout",
    "manifest": "manifest annotate, manifest create, manifest inspect, manifest push, manifest rm",
    "build.build_command": "build, image build, builder build, buildx build, buildx b",
    "build.builder_verbs": "buildx ls, buildx inspect, buildx du, buildx prune, buildx version, "
    "buildx use, buildx stop, buildx create, buildx rm, builder ls, builder inspect, builder du",
    "build.history_verbs": "buildx history ls, buildx history inspect, buildx history logs, "
    "buildx history rm, buildx history open, buildx history export, buildx history import, "
    "builder history ls, builder history inspect, builder history logs, builder history rm",
    "bake.bake_command": "buildx bake, buildx f, builder bake",
    "imagetools": "buildx imagetools inspect",
    "imagetools_create": "buildx imagetools create",
    "networks": "network create, network ls, network list, network rm, network remove, "
    "network connect, network disconnect",
    "volumes": "volume create, volume ls, volume list, volume rm, volume remove, "
    "volume update, volume clone, volume rename, volume export, volume import",
    "system": "version, info, events, system info, system events, system df, system audit, "
    "system check, system reset, daemon stop",
    "dial_stdio": "system dial-stdio",
    "daemon_service": "daemon install, daemon uninstall, daemon start, daemon status, "
    "daemon restart, __install",
    "prune": "container prune, image prune, network prune, volume prune, system prune, "
    "builder prune",
    "context": "context ls, context list, context inspect, context show, context use, "
    "context create, context update, context rm, context remove",
    "contextfiles": "context export, context import",
    "complete": "completion, __complete",
}

GROUPS = {
    "builder": "Manage builds",
    "buildx": "Build images, and look at images in registries",
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "manifest": "Manage manifest lists: one name for several platforms",
    "network": "Manage networks",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}
"""Commands that have commands, and what they are about."""

COMMON = ("run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version",
          "info")  # fmt: skip
"""Named first in the help."""
ELSEWHERE = {
    "compose": "Define and run applications of several containers: compose up, down, ps …",
    "daemon": "Run the engine in the foreground, or manage it: status, stop, restart, install",
    "monitor": "Watch containers and the machine: a page, metrics, early warning",
    "registry": "Serve images to others: registry serve",
}
"""Run by other parts of the package: ``portside.__main__`` hands them over."""

_NO_SWARM = "an engine works alone here; use compose for several containers"
NOT_BUILT = {
    **dict.fromkeys(("swarm", "node", "service", "stack", "secret", "config"), _NO_SWARM),
    "plugin": "drivers of volumes, networks and logs are built in",
    "trust": "signatures are not checked; name an image by its digest instead",
    "checkpoint": "a container can be paused, not written to disk",
}
"""Docker's commands that we do not have, and what to do about it."""

MODULES = {name: module for module, names in _FAMILIES.items() for name in names.split(", ")}
"""Name of the module by full name of the verb."""


def own_names() -> frozenset[str]:
    """First words that no plugin can take."""
    return frozenset((*MODULES, *GROUPS, *ELSEWHERE, *NOT_BUILT))
