"""``use_api_socket``: the engine's socket and the client's credentials inside a service."""

from __future__ import annotations

from portside.compose.actions import Actions

_CONFIG = "#apisocket"
_SOCKET = "/var/run/docker.sock"
_DIRECTORY = "/run/secrets/docker"


def give(actions: Actions) -> None:
    """Add them to the services that ask for them: a bind, a config, and ``DOCKER_CONFIG``; no
    credentials where that variable is set. Raises InvalidParameter for an engine without a socket.
    """
    project = actions.project
    asking = [service for service in project.services.values() if service.get("use_api_socket")]
    if not asking:
        return
    source, content = actions.api_socket()
    project.configs[_CONFIG] = {"name": _CONFIG, "content": content}
    for service in asking:
        mount = {"type": "bind", "source": source, "target": _SOCKET}
        volumes = service.setdefault("volumes", [])
        if mount in volumes:
            continue  # done before: this project is brought up again
        volumes.append(mount)
        environment = service.setdefault("environment", {})
        if "DOCKER_CONFIG" not in environment:
            environment["DOCKER_CONFIG"] = _DIRECTORY
            item = {"source": _CONFIG, "target": f"{_DIRECTORY}/config.json"}
            service.setdefault("configs", []).append(item)
