"""``down``: everything of a project is stopped and removed, dependents before what they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from portside.client.client import path_of
from portside.client.errors import Refused
from portside.compose.actions import Actions
from portside.compose.executor import execute
from portside.compose.observed import Container, Observed, observe
from portside.compose.progress_events import DONE, WARNING, WORKING
from portside.compose.requests import NETWORK, PROJECT, image_of
from portside.compose.step_plan import Plan, Step
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IN_USE = "Resource is still in use"


@dataclass
class DownOptions:
    """The flags of ``down``."""

    services: list[str] = field(default_factory=list)
    volumes: bool = False
    remove_orphans: bool = False
    images: str = ""
    """``all``, or ``local``: images without a name in the files."""


class Teardown:
    """Makes the plan of ``down``."""

    def __init__(self, actions: Actions, observed: Observed, choices: DownOptions) -> None:
        self.actions, self.observed, self.choices = actions, observed, choices
        self.plan = Plan()

    def build(self) -> Plan:
        project = self.actions.project
        self._containers()
        before = list(self.plan.steps)
        for key, network in project.networks.items():
            if not network.get("external"):
                self._network(key, network["name"], before)
        if self.choices.images:
            for image in self._images():
                self.plan.add("remove", f"image {image}", self._image_remover(image),
                              after=before)  # fmt: skip
        if self.choices.volumes:
            for volume in project.volumes.values():
                if not volume.get("external") and volume["name"] in self.observed.volumes:
                    name = volume["name"]
                    self.plan.add("remove", f"volume {name}", self._volume_remover(name),
                                  after=before)  # fmt: skip
        return self.plan

    def _containers(self) -> None:
        project = self.actions.project
        steps: dict[str, list[Step]] = {}
        chosen = self._chosen()
        for name in reversed_order(project.services):
            after = [
                step for other, service in project.services.items()
                if name in (service.get("depends_on") or {}) for step in steps.get(other, ())
            ]  # fmt: skip
            steps[name] = after
            if name not in chosen:
                continue
            mine = []
            if "provider" in project.services[name]:
                mine.append(self.plan.add("remove", f"service {name}", self._provider(name),
                                          after=after))  # fmt: skip
            for container in self.observed.containers:
                if container.service != name:
                    continue
                if container.is_one_off and not self.choices.remove_orphans:
                    continue
                mine.append(self._remove(name, container, after))
            steps[name] = mine or after
        if self.choices.remove_orphans:
            known = {step.subject for step in self.plan.steps}
            for container in self.observed.orphans(project):
                if f"container {container.name}" not in known:
                    self._remove("", container, [])

    def _provider(self, name: str) -> Callable[[], None]:
        def perform() -> None:
            from portside.compose import providers

            providers.run(self.actions, name, "down")

        return perform

    def _chosen(self) -> set[str]:
        """The services that were named and everything that depends on them."""
        services = self.actions.project.services
        found = set(self.choices.services) or set(services)
        for name in reversed(list(reversed_order(services))):
            if found & set(services[name].get("depends_on") or ()) and self.choices.services:
                found.add(name)
        return found

    def _remove(self, service: str, container: Container, after: list[Step]) -> Step:
        definition = self.actions.project.services.get(service)
        return self.plan.add(
            "remove", f"container {container.name}",
            lambda: self.actions.stop_and_remove(
                definition, container, self.choices.volumes and definition is not None
            ), after=after,
        )  # fmt: skip

    # -- networks, volumes, images ----------------------------------------------------------

    def _network(self, key: str, name: str, after: list[Step]) -> None:
        for network in self.observed.networks:
            labels = network.get("Labels") or {}
            if labels.get(PROJECT) != self.actions.project.name or labels.get(NETWORK) != key:
                continue
            if network["Name"] != name:
                continue
            identifier = network["Id"]

            def perform(identifier: str = identifier) -> None:
                self._drop(f"Network {name}", path_of("networks", identifier), {})

            self.plan.add("remove", f"network {name}", perform, after=after)

    def _drop(self, event: str, path: str, query: dict[str, Any]) -> None:
        """Remove an object that may be in use or removed already."""
        actions = self.actions
        actions.emit(event, WORKING, "Removing")
        try:
            if not actions.dry_run:
                actions.pool.delete(path, query)
        except Refused as err:
            if err.status in (403, 409):
                actions.emit(event, WARNING, _IN_USE)
            elif err.is_not_found:
                actions.emit(event, DONE, "Warning: No resource found to remove")
            else:
                actions.emit(event, "Error", "Error")
                raise
        else:
            actions.emit(event, DONE, "Removed")

    def _volume_remover(self, name: str) -> Any:
        return lambda: self._drop(f"Volume {name}", path_of("volumes", name), {"force": True})

    def _image_remover(self, image: str) -> Any:
        return lambda: self._drop(f"Image {image}", path_of("images", image), {})

    def _images(self) -> list[str]:
        project = self.actions.project
        found: dict[str, None] = {}
        for name, service in project.services.items():
            if "provider" in service:
                continue
            own = not service.get("image")
            if self.choices.images == "all" or own:
                found[image_of(project, name, service)] = None
        return list(found)


def reversed_order(services: dict[str, Any]) -> Iterable[str]:
    """Each service before its dependencies; missing ones are left out."""
    done: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in done or name in way or name not in services:
            return
        for other in services[name].get("depends_on") or ():
            visit(other, (*way, name))
        done.append(name)

    for name in services:
        visit(name, ())
    return reversed(done)


def down(actions: Actions, choices: DownOptions, parallel: int) -> None:
    """Plan and do it; a warning when there is nothing to do."""
    observed = observe(actions.pool, actions.project.name)
    plan = Teardown(actions, observed, choices).build()
    if not plan:
        actions.warn(f'Warning: No resource found to remove for project "{actions.project.name}".')
    execute(plan, parallel)
