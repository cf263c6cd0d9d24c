"""Changes to one container at a time, each reported while it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portside.client.client import path_of
from portside.client.errors import Refused
from portside.compose import injected_files, service_hooks
from portside.compose.compose_errors import user_message
from portside.compose.conditions import ContainerWatch
from portside.compose.config_output import service_hash
from portside.compose.engine_pool import EnginePool
from portside.compose.observed import Container
from portside.compose.progress_events import DONE, ERROR, WARNING, WORKING, Event, Report, silent
from portside.compose.project import Project, Values
from portside.compose.requests import HASH, REPLACE, ContainerRequest, container_name, image_of
from portside.compose.shared_namespaces import resolve_service
from portside.model.errors import PortsideError
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@dataclass
class Actions:
    """The shared context of the changes to one project."""

    pool: EnginePool
    project: Project
    report: Report = silent
    proxies: dict[str, str] = field(default_factory=dict)
    timeout: int | None = None
    """Seconds to wait for a container to stop; None: as it was created."""
    dry_run: bool = False
    warn: Callable[[str], None] = lambda text: None
    hook_output: Callable[[Container, str], None] | None = None
    """Takes what hooks print."""
    containers: dict[str, list[Container]] = field(default_factory=dict)
    """The containers of each service, kept up to date."""
    api_socket: Callable[[], tuple[str, str]] = lambda: ("/var/run/docker.sock", '{"auths": {}}')
    """The engine's socket, and credentials as config.json has them, for ``use_api_socket``."""
    rollouts: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Services whose containers are replaced in batches once they may start (``rolling``)."""
    changing: set[str] = field(default_factory=set)
    """Services for which the plan makes or replaces containers."""
    images: dict[str, Values] = field(default_factory=dict)
    """Inspections of the images by name."""

    def __post_init__(self) -> None:
        self.watch = ContainerWatch(self.pool, self.project.name)

    # -- events -----------------------------------------------------------------------------

    def emit(self, id: str, status: str, text: str) -> None:
        self.report(Event(id, status, text))

    def call(
        self, id: str, doing: str, done: str, work: Callable[[], Any], failed: str = ""
    ) -> Any:
        """Do the work, and report it before, after and when it fails: the error, or ``failed``
        when the error that is raised further up names the object."""
        self.emit(id, WORKING, doing)
        try:
            found = None if self.dry_run else work()
        except PortsideError as err:
            self.emit(id, ERROR, failed or user_message(err))
            raise
        if done:
            self.emit(id, DONE, done)
        return found

    # -- making -----------------------------------------------------------------------------

    def image_digest(self, name: str) -> str:
        image = self.images.get(image_of(self.project, name, self.project.services[name]))
        return str(image["Id"]) if image else ""

    def resolved(self, name: str) -> Values:
        """A service with the containers that it shares something with in place of services."""
        return resolve_service(self.project.services[name], self.containers)

    def request(self, name: str, number: int, **more: Any) -> ContainerRequest:
        """The inputs for creating a service's container."""
        service, resolved = self.project.services[name], self.resolved(name)
        labels = {HASH: service_hash(resolved), **more.pop("labels", {})}
        resolved["volumes_from"] = _volumes_from(service, self.containers)
        return ContainerRequest(
            self.project, name, resolved, number, image_digest=self.image_digest(name),
            links=self._links(service, number), labels=labels, proxies=self.proxies,
            warn=self.warn, **more,
        )  # fmt: skip

    def _links(self, service: Values, number: int) -> list[str]:
        found = []
        for text in service.get("links") or ():
            other, _, alias = text.partition(":")
            for container in self.containers.get(other, ()):
                found += [
                    f"{container.name}:{alias or other}",
                    f"{container.name}:{other}-{number}",
                    f"{container.name}:{self.project.name}-{other}-{number}",
                ]
        for text in service.get("external_links") or ():
            other, _, alias = text.partition(":")
            found.append(f"{other}:{alias or other}")
        return found

    def post_create(self, name: str, request: ContainerRequest) -> Container:
        """Create a container of a name."""
        body = request.body()
        platform = request.service.get("platform") or self.project.environment.get(
            "DOCKER_DEFAULT_PLATFORM"
        )
        query = {"name": name, "platform": platform or None}
        if self.dry_run:
            made: Values = {"Id": f"dryRunId-{name}"}
        else:
            made = self.pool.post("/containers/create", query, body)
        for text in made.get("Warnings") or ():
            self.report(Event(request.service_name, WARNING, "", detail=text))
        return Container(
            {"Id": made["Id"], "Names": [f"/{name}"], "Labels": body["Labels"], "State": "created",
             "Image": body["Image"]}
        )  # fmt: skip

    def create(self, service: str, number: int) -> None:
        """Create one more container of a service."""
        name = container_name(self.project, service, self.project.services[service], number)
        event = f"Container {name}"
        self.emit(event, WORKING, "Creating")
        try:
            made = self.post_create(name, self.request(service, number))
        except PortsideError as err:
            self.emit(event, ERROR, user_message(err))
            raise
        self.emit(event, DONE, "Created")
        self.containers.setdefault(service, []).append(made)

    def recreate(self, service: str, old: Container, inherit: bool) -> None:
        """Put a new container in the place of an old one, with its anonymous volumes."""
        name = container_name(
            self.project, service, self.project.services[service], old.number or 1
        )
        self.emit(old.event_id, WORKING, "Recreate")
        try:
            made = self.replacement(service, old, inherit)
            if not self.dry_run:
                self._replace(old, made, name)
        except PortsideError as err:
            self.emit(old.event_id, ERROR, user_message(err))
            raise
        made.raw["Names"] = [f"/{name}"]
        known = self.containers.setdefault(service, [])
        known[known.index(old)] = made
        self.emit(f"Container {name}", DONE, "Recreated")

    def replacement(self, service: str, old: Container, inherit: bool) -> Container:
        """Create the replacement of a container, with another name until then."""
        number = old.number or 1
        definition = self.project.services[service]
        name = container_name(self.project, service, definition, number)
        replaced = definition.get("container_name") or f"{service}-{number}"
        request = self.request(
            service, number, labels={REPLACE: replaced},
            inherited=list(old.raw.get("Mounts") or ()) if inherit else [],
            image_volumes=self._image_volumes(service),
        )  # fmt: skip
        return self.post_create(f"{old.id[:12]}_{name}", request)

    def _replace(self, old: Container, made: Container, name: str) -> None:
        path = path_of("containers", old.id)
        self.pool.post(f"{path}/stop", {"t": self.timeout})
        self.pool.delete(path)
        self.pool.post(path_of("containers", made.id, "rename"), {"name": name})

    def _image_volumes(self, service: str) -> frozenset[str]:
        image = self.images.get(image_of(self.project, service, self.project.services[service]))
        return frozenset((((image or {}).get("Config") or {}).get("Volumes")) or ())

    def rename(self, container: Container, name: str) -> None:
        """Give a container another name."""
        if not self.dry_run:
            self.pool.post(path_of("containers", container.id, "rename"), {"name": name})
        container.raw["Names"] = [f"/{name}"]

    # -- starting and ending ----------------------------------------------------------------

    def start(self, service: Values | None, container: Container) -> None:
        """Copy files into a container, start it, and run its hooks."""

        def work() -> None:
            if service is not None:
                injected_files.inject(self.pool, self.project, service, container.id)
            self.pool.post(path_of("containers", container.id, "start"))
            self.run_hooks(container, (service or {}).get("post_start"))

        self.call(container.event_id, "Starting", "Started", work)
        container.state = "running"

    def _hook(self, container: Container, hook: Values) -> None:
        write = None
        if self.hook_output is not None:
            output = self.hook_output
            write = lambda line: output(container, line)  # noqa: E731
        service_hooks.run(self.pool, container, hook, write)

    def run_hooks(self, container: Container, wanted: list[Values] | None) -> None:
        """Run hooks, one after the other. Raises ComposeError."""
        for hook in wanted or ():
            if not self.dry_run:
                self._hook(container, hook)

    def stop(self, service: Values | None, container: Container) -> bool:
        """Stop a container after its hooks; False when it was removed."""

        def work() -> bool:
            try:
                if container.state == "running":
                    self.run_hooks(container, (service or {}).get("pre_stop"))
                self.pool.post(path_of("containers", container.id, "stop"), {"t": self.timeout})
            except Refused as err:
                if not err.is_not_found:
                    raise
                return False
            return True

        found = self.call(container.event_id, "Stopping", "Stopped", work)
        container.state = "exited"
        return found is not False

    def remove(self, container: Container, volumes: bool, *, force: bool = True) -> None:
        """Remove a container; ``volumes``: with its anonymous volumes, ``force``: also when it
        runs."""

        def work() -> None:
            try:
                self.pool.delete(path_of("containers", container.id),
                                 {"force": force or None, "v": volumes or None})  # fmt: skip
            except Refused as err:
                # removed, or its removal is under way
                if not err.is_not_found and not (force and err.status == 409):
                    raise
            for name in container.anonymous_volumes if volumes else ():
                self._remove_inherited(name)

        self.call(container.event_id, "Removing", "Removed", work)

    def _remove_inherited(self, name: str) -> None:
        """Remove an anonymous volume that a container had from the one it replaced: to the engine
        it is a named one."""
        from portside.model.volume import ANONYMOUS

        path = path_of("volumes", name)
        try:
            if ANONYMOUS in (self.pool.get(path).get("Labels") or {}):
                self.pool.delete(path)
        except Refused as err:
            if err.status not in (404, 409):  # removed with the container, or in use by another
                raise

    def stop_and_remove(self, service: Values | None, container: Container, volumes: bool) -> None:
        if not self.stop(service, container):
            self.emit(container.event_id, DONE, "Removed")
            return
        self.remove(container, volumes)

    def post(self, container: Container, verb: str, doing: str, done: str,
             query: dict[str, Any] | None = None) -> None:  # fmt: skip
        """Another change: pause, unpause, kill, restart."""
        path = path_of("containers", container.id, verb)
        self.call(container.event_id, doing, done, lambda: self.pool.post(path, query))


def _volumes_from(service: Values, containers: dict[str, list[Container]]) -> list[str] | None:
    """``volumes_from`` in the engine's form: ``ID[:ro]``."""
    found = []
    for text in service.get("volumes_from") or ():
        parts = text.split(":")
        if parts[0] == "container":
            found.append(":".join(parts[1:]))
            continue
        others: Iterable[Container] = sorted(containers.get(parts[0], ()), key=lambda c: c.name)
        found.append(":".join([next(iter(others)).id, *parts[1:]]))
    return found or None
