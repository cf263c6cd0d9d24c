"""The plan of ``up`` and ``create``: from the state of the engine to the project.

Networks and volumes first, then all containers are created, then they are started in the order of
their dependencies. Only what a step really needs is waited for.
"""

from __future__ import annotations

from collections.abc import Callable

from portside.client.client import path_of
from portside.compose import conditions, preflight
from portside.compose.actions import Actions
from portside.compose.changes import DIVERGED, FORCE, difference
from portside.compose.compose_errors import ComposeError, user_message
from portside.compose.conditions import ConditionFailed, fulfil
from portside.compose.config_output import network_hash, volume_hash
from portside.compose.observed import Container, Observed
from portside.compose.progress_events import DONE, ERROR, WARNING, WORKING, Event
from portside.compose.project import Project, Values
from portside.compose.requests import (
    HASH,
    NETWORK,
    PROJECT,
    REPLACE,
    container_name,
    network_body,
    scale_of,
    volume_body,
)
from portside.compose.shared_namespaces import resolve_service, sharers_of
from portside.compose.step_plan import Plan, Step
from portside.model.errors import PortsideError
from portside.model.light_dataclass import dataclass, field

_MAX_SCALE = 10_000


@dataclass
class UpOptions:
    """The flags of ``up`` and ``create``."""

    services: list[str] = field(default_factory=list)
    recreate: str = DIVERGED
    recreate_dependencies: str = DIVERGED
    inherit: bool = True
    """Anonymous volumes are taken over from replaced containers."""
    remove_orphans: bool = False
    ignore_orphans: bool = False
    rolls: bool = False
    """Running containers are replaced as ``deploy.update_config`` says; what is created starts."""
    confirm: Callable[[str], bool] = lambda question: False
    """Asks the user, for what loses data."""


class Convergence:
    """Makes the plan."""

    def __init__(self, actions: Actions, observed: Observed, choices: UpOptions) -> None:
        self.actions, self.observed, self.choices = actions, observed, choices
        self.project: Project = actions.project
        self.plan = Plan()
        self.networks: dict[str, str] = {}
        """IDs of the project's networks that exist and stay."""
        self._replaced: dict[str, str] = {}
        """Services all of whose containers get new ones, and why."""
        self._made: dict[str, list[Step]] = {}
        """Steps after which the containers of a service exist."""
        self._before: dict[str, list[Step]] = {}
        """Steps that a service's containers have to wait for: networks and volumes."""
        for name in self.project.services:
            actions.containers[name] = observed.of_service(name)

    # -- creating ---------------------------------------------------------------------------

    def create(self) -> None:
        """Plan everything up to containers that exist. Raises ComposeError."""
        self._check_external()
        for key in self.project.networks:
            self._network(key)
        for key in self.project.volumes:
            self._volume(key)
        self._orphans()
        for name in in_order(self.project):
            self._service(name)
        for name, service in self.project.services.items():
            if "provider" in service or not scale_of(service):
                continue
            if name in self.actions.changing:
                preflight.check_image(self.project, name, self.observed.images)
            if not runs(self.actions, name):
                preflight.check_files(self.project, name)

    def _check_external(self) -> None:
        for key, network in self.project.networks.items():
            if not network.get("external"):
                continue
            found = self.observed.network(network["name"])
            if not found:
                raise self.project.error(
                    ("networks", key),
                    f"network {network['name']} declared as external, but could not be found",
                )
            if len(found) > 1:
                raise self.project.error(
                    ("networks", key),
                    f'multiple networks with name "{network["name"]}" were found. '
                    "Use network ID as `name` to avoid ambiguity",
                )
        for key, volume in self.project.volumes.items():
            if volume.get("external") and volume["name"] not in self.observed.volumes:
                raise self.project.error(
                    ("volumes", key), f'external volume "{volume["name"]}" not found'
                )

    def _users_of(self, group: str, key: str) -> list[str]:
        """Services that use a network or a volume."""
        if group == "networks":
            return [
                name for name, service in self.project.services.items()
                if key in (service.get("networks") or ())
            ]  # fmt: skip
        return [
            name for name, service in self.project.services.items()
            if any(item["type"] == "volume" and item.get("source") == key
                   for item in service.get("volumes") or ())
        ]  # fmt: skip

    def _network(self, key: str) -> None:
        network = self.project.networks[key]
        name = network["name"]
        found = [item for item in self.observed.networks if item["Name"] == name]
        if network.get("external"):
            self.networks[key] = self.observed.network(name)[0]["Id"]
            return
        before: list[Step] = []
        reason = "it does not exist"
        if found:
            mine = self._my_network(key, name, found)
            kept = (mine.get("Labels") or {}).get(HASH, "")
            if not kept or kept == network_hash(network):
                self.networks[key] = mine["Id"]
                return
            reason = "its configuration has changed"
            before = self._drop_network(key, name, mine)
        body = network_body(self.project, key)

        def make() -> None:
            try:
                self.actions.call(
                    f"Network {name}", "Creating", "Created",
                    lambda: self.actions.pool.post("/networks/create", None, body), "Error",
                )  # fmt: skip
            except PortsideError as err:
                raise ComposeError(
                    f"failed to create network {name}: {user_message(err)}"
                ) from None

        step = self.plan.add("create", f"network {name}", make, reason=reason, after=before)
        for user in self._users_of("networks", key):
            self._before.setdefault(user, []).append(step)

    def _my_network(self, key: str, name: str, found: list[Values]) -> Values:
        """Find the network of a name; warns about one of another project. Raises ComposeError."""
        for item in found:
            labels = item.get("Labels") or {}
            if labels.get(PROJECT) == self.project.name and labels.get(NETWORK) == key:
                return item
        labels = found[0].get("Labels") or {}
        hint = "Set `external: true` to use an existing network"
        if PROJECT not in labels:
            self.actions.warn(
                f"a network with name {name} exists but was not created by compose.\n{hint}"
            )
        else:
            self.actions.warn(
                f"a network with name {name} exists but was not created for project "
                f'"{self.project.name}".\n{hint}'
            )
        if labels.get(NETWORK, "") != key:
            raise ComposeError(
                f"network {name} was found but has incorrect label {NETWORK} set to "
                f'"{labels.get(NETWORK, "")}" (expected: "{key}")'
            )
        return found[0]

    def _drop_network(self, key: str, name: str, network: Values) -> list[Step]:
        """Stop the containers of a network that has changed and remove it."""
        stops = []
        users = self._users_of("networks", key)
        for user in users:
            self._replaced[user] = f"network {key} has changed"
            for container in self.actions.containers[user]:
                stops.append(self._stop_step(user, container, self._replaced[user]))

        def drop() -> None:
            pool, identifier = self.actions.pool, network["Id"]

            def work() -> None:
                for user in users:
                    for container in self.actions.containers[user]:
                        if name in (container.raw.get("NetworkSettings") or {}).get("Networks", {}):
                            pool.post(path_of("networks", identifier, "disconnect"), None,
                                      {"Container": container.id, "Force": True})  # fmt: skip
                pool.delete(path_of("networks", identifier))

            self.actions.call(f"Network {name}", "Removing", "Removed", work)

        reason = "its configuration has changed"
        return [self.plan.add("remove", f"network {name}", drop, reason=reason, after=stops)]

    def _stop_step(self, service: str, container: Container, reason: str) -> Step:
        definition = self.project.services.get(service)
        return self.plan.add(
            "stop", f"container {container.name}",
            lambda: (self.actions.stop(definition, container), None)[1], reason=reason,
        )  # fmt: skip

    def _volume(self, key: str) -> None:
        volume = self.project.volumes[key]
        name = volume["name"]
        if volume.get("external"):
            return
        found = self.observed.volumes.get(name)
        before: list[Step] = []
        reason = "it does not exist"
        if found is not None:
            labels = found.get("Labels") or {}
            self._warn_of_foreign_volume(name, labels)
            if labels.get(HASH, "") in ("", volume_hash(volume)) or not self.choices.confirm(
                f'Volume "{name}" exists but doesn\'t match configuration in compose file. '
                "Recreate (data will be lost)?"
            ):
                return
            reason = "its configuration has changed"
            before = self._drop_volume(key, name)
        body = volume_body(self.project, key)

        def make() -> None:
            self.actions.call(
                f"Volume {name}", "Creating", "Created",
                lambda: self.actions.pool.post("/volumes/create", None, body),
            )  # fmt: skip

        step = self.plan.add("create", f"volume {name}", make, reason=reason, after=before)
        for user in self._users_of("volumes", key):
            self._before.setdefault(user, []).append(step)

    def _warn_of_foreign_volume(self, name: str, labels: dict[str, str]) -> None:
        hint = "Use `external: true` to use an existing volume"
        owner = labels.get(PROJECT)
        if owner is None:
            self.actions.warn(
                f'volume "{name}" already exists but was not created by Docker Compose. {hint}'
            )
        elif owner != self.project.name:
            self.actions.warn(
                f'volume "{name}" already exists but was created for project "{owner}" '
                f'(expected "{self.project.name}"). {hint}'
            )

    def _drop_volume(self, key: str, name: str) -> list[Step]:
        removed = []
        for user in self._users_of("volumes", key):
            for container in self.actions.containers[user]:
                removed.append(self._remove_step(user, container, f"volume {key} has changed"))
            self.actions.containers[user] = []
        query = {"force": True}

        def drop() -> None:
            self.actions.call(
                f"Volume {name}", "Removing", "Removed",
                lambda: self.actions.pool.delete(path_of("volumes", name), query),
            )  # fmt: skip

        reason = "its configuration has changed"
        return [self.plan.add("remove", f"volume {name}", drop, reason=reason, after=removed)]

    def _remove_step(
        self, service: str, container: Container, reason: str, volumes: bool = False
    ) -> Step:
        definition = self.project.services.get(service)
        return self.plan.add(
            "remove", f"container {container.name}",
            lambda: self.actions.stop_and_remove(definition, container, volumes), reason=reason,
        )  # fmt: skip

    def _orphans(self) -> None:
        found = self.observed.orphans(self.project)
        if not found or self.choices.ignore_orphans:
            return
        if self.choices.remove_orphans:
            for container in found:
                self._remove_step("", container, "its service is not in the project")
            return
        names = " ".join(item.name for item in found)
        self.actions.warn(
            f"Found orphan containers ([{names}]) for this project. If you removed or renamed this "
            "service in your compose file, you can run this command with the --remove-orphans "
            "flag to clean it up."
        )

    # -- the containers of one service ------------------------------------------------------

    def _service(self, name: str) -> None:
        service = self.project.services[name]
        if "provider" in service:
            return
        wanted = scale_of(service)
        if wanted > _MAX_SCALE:
            raise self.project.error(
                ("services", name, "scale" if "scale" in service else "deploy"),
                f"{wanted} containers are more than the {_MAX_SCALE} that a service can have",
            )
        if wanted > 1 and service.get("container_name"):
            raise ComposeError(
                f'The "{name}" service is using the custom container name '
                f'"{service["container_name"]}". Docker requires each container to have a unique '
                "name. Remove the custom name to scale the service"
            )
        needed = [
            step for other in sharers_of(service) for step in self._made.get(other, ())
        ]  # fmt: skip
        before = [*self._before.get(name, ()), *needed]
        reasons = {item: self._reason(name, item) for item in self.actions.containers[name]}
        found = sorted(reasons, key=lambda item: (bool(reasons[item]), item.number))
        made = self._made.setdefault(name, [])
        rolled: list[Container] = []
        for container in found[wanted:]:  # first: one that is kept may take the name
            self.actions.containers[name].remove(container)
            text = f"{wanted} of service {name} are wanted"
            self._remove_step(name, container, reasons[container] or text)
        for container in found[:wanted]:
            if reasons[container] and container.state == "running" and self._rolls(name):
                rolled.append(container)
            elif reasons[container]:
                stops = self._stop_dependents(name)
                made.append(self._recreate(name, container, reasons[container], [*before, *stops]))
            else:
                self._keep(name, container)
        highest = max((item.number for item in found), default=0)
        for number in range(highest + 1, highest + 1 + wanted - len(found)):
            made.append(self._create(name, number, before))
        if made or rolled:
            self.actions.changing.add(name)
        if rolled:
            from portside.compose.rolling import Rollout

            self._stop_dependents(name)
            rollout = Rollout(self.actions, name, rolled, self.choices.inherit)
            self.actions.rollouts[name] = rollout.perform

    def _rolls(self, name: str) -> bool:
        """Containers of a service are replaced in batches: not where others need the new ones to
        be created."""
        update = (self.project.services[name].get("deploy") or {}).get("update_config")
        return (
            self.choices.rolls and update is not None and name not in self._replaced
            and not any(name in sharers_of(other) for other in self.project.services.values())
        )  # fmt: skip

    def _reason(self, name: str, container: Container) -> str:
        if name in self._replaced:
            return self._replaced[name]
        service = self.project.services[name]
        chosen = not self.choices.services or name in self.choices.services
        policy = self.choices.recreate if chosen else self.choices.recreate_dependencies
        for other, what in sharers_of(service).items():
            if what != "the link" and self._made.get(other) and policy in (DIVERGED, FORCE):
                return f"{what} comes from service {other}, which gets a new container"
        return difference(
            self.project, resolve_service(service, self.actions.containers), container, policy,
            self.actions.image_digest(name), self.networks,
        )  # fmt: skip

    def _stop_dependents(self, name: str) -> list[Step]:
        """Dependents with ``restart: true`` are stopped before a service is recreated."""
        steps = []
        for other, service in self.project.services.items():
            if (service.get("depends_on") or {}).get(name, {}).get("restart"):
                for container in self.actions.containers[other]:
                    if container.state == "running":
                        reason = f"service {name}, on which it depends, is recreated"
                        steps.append(self._stop_step(other, container, reason))
                        container.state = "exited"
        return steps

    def _create(self, name: str, number: int, before: list[Step]) -> Step:
        subject = container_name(self.project, name, self.project.services[name], number)
        return self.plan.add(
            "create", f"container {subject}", lambda: self.actions.create(name, number),
            reason="it does not exist", after=before,
        )  # fmt: skip

    def _recreate(self, name: str, old: Container, reason: str, before: list[Step]) -> Step:
        self._replaced.setdefault(name, reason)
        return self.plan.add(
            "recreate", f"container {old.name}",
            lambda: self.actions.recreate(name, old, self.choices.inherit),
            reason=reason, after=before,
        )  # fmt: skip

    def _keep(self, name: str, container: Container) -> None:
        expected = container_name(
            self.project, name, self.project.services[name], container.number or 1
        )
        if REPLACE in container.labels and container.name.endswith(f"_{expected}"):
            after = [step for step in self.plan.steps if step.subject == f"container {expected}"]
            self.plan.add(
                "rename", f"container {container.name}",
                lambda: self.actions.rename(container, expected),
                reason="its replacement was interrupted", after=after,
            )  # fmt: skip
        elif container.state == "running":
            self.actions.emit(container.event_id, DONE, "Running")

    # -- starting ---------------------------------------------------------------------------

    def start(self) -> None:
        """Plan the start of what does not run, after everything else."""
        add_starts(self.plan, self.actions, list(self.plan.steps))


def add_starts(
    plan: Plan, actions: Actions, before: list[Step], deadline: float | None = None
) -> dict[str, list[Step]]:
    """Start each service's containers once its dependencies are as it needs them."""
    project = actions.project
    if not before and not any(actions.containers.values()):
        for name, service in project.services.items():
            if scale_of(service) and "provider" not in service:
                raise ComposeError(f'service "{name}" has no container to start')
    started: dict[str, list[Step]] = {}
    waits: dict[tuple[str, str], Step] = {}
    for name in in_order(project):
        service = project.services[name]
        if "provider" in service:
            started[name] = before
            continue
        after = list(before)
        for other, how in project.dependencies(name).items():
            if other not in started:
                continue
            after += started[other]
            condition = how.get("condition", conditions.STARTED)
            dependency = project.services[other]
            if condition == conditions.STARTED or "provider" in dependency:
                continue
            if scale_of(dependency) == 0:
                continue
            required = how.get("required", True)
            key = (other, f"{condition} {required}")
            if key not in waits:
                waits[key] = add_wait(
                    plan, actions, other, condition, started[other] or before, deadline,
                    required=required, dependent=name,
                )  # fmt: skip
            after.append(waits[key])
        if name in actions.rollouts:
            roll = actions.rollouts.pop(name)
            after.append(plan.add("recreate", f"service {name}", roll, after=_unique(after)))
        if runs(actions, name):
            started[name] = _unique(after)
            continue
        step = plan.add(
            "start", f"service {name}", _starter(actions, name), after=_unique(after)
        )  # fmt: skip
        started[name] = [step]
    return started


def runs(actions: Actions, name: str) -> bool:
    """A service of which every container runs already and stays: there is nothing to start."""
    found = actions.containers.get(name) or []
    return name not in actions.changing and all(item.state == "running" for item in found)


def _unique(steps: list[Step]) -> list[Step]:
    return list(dict.fromkeys(steps))


def _starter(actions: Actions, name: str) -> Callable[[], None]:
    def perform() -> None:
        service = actions.project.services[name]
        for container in list(actions.containers.get(name, ())):
            if container.state != "running":
                actions.start(service, container)

    return perform


def add_wait(
    plan: Plan, actions: Actions, name: str, condition: str, after: list[Step],
    deadline: float | None = None, *, required: bool = True, dependent: str = "",
) -> Step:  # fmt: skip
    """Wait until the containers of a service meet a condition."""

    def perform() -> None:
        containers = actions.containers.get(name) or []
        if actions.dry_run:
            return
        if not containers:
            text = f"{dependent} is missing dependency {name}"
            if required:
                raise ComposeError(text)
            actions.warn(text)
            return

        def emit_all(status: str, text: str) -> None:
            for container in containers:
                actions.report(Event(container.event_id, status, text))

        emit_all(WORKING, "Waiting")
        try:
            fulfil(actions.pool, actions.watch, containers, condition, name, deadline)
        except ConditionFailed as err:
            first = str(err).partition("\n")[0]
            if not required:
                reason = f'optional dependency "{name}" failed to start'
                if condition == conditions.COMPLETED:
                    reason = f"optional dependency {first.removeprefix('service ')}"
                emit_all(WARNING, f"Skipped: {reason}")
                actions.warn(reason if condition == conditions.COMPLETED else f"{reason}: {first}")
                return
            if condition == conditions.HEALTHY:
                emit_all(ERROR, "Error")
                raise ConditionFailed(f"dependency failed to start: {err}") from None
            emit_all(ERROR, first)
            raise
        emit_all(DONE, "Exited" if condition == conditions.COMPLETED else "Healthy")

    return plan.add("wait", f"service {name}", perform, reason=condition, after=after, is_wait=True)


def in_order(project: Project) -> list[str]:
    """The services, each after its dependencies. Raises ComposeError."""
    done: list[str] = []
    seen: set[str] = set()
    stack = list(reversed(project.services))
    while stack:
        name = stack[-1]
        if name in seen:
            stack.pop()
            if name not in done:
                done.append(name)
            continue
        seen.add(name)
        for other, how in project.dependencies(name).items():
            if other in project.services:
                if other not in seen:
                    stack.append(other)
            elif other in project.disabled and how.get("required", True):
                profiles = " ".join(project.disabled[other].get("profiles") or ())
                raise ComposeError(
                    f"service {other} is required by {name} but is disabled. "
                    f"Can be enabled by profiles [{profiles}]"
                )
    return done
