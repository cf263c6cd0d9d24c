"""A container's states: who may do what when, what is told, and what policies do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from containerkit import KILL, TERM, Kit, kit

from portside.containers import stop
from portside.containers.attach_exec import create_exec
from portside.containers.exit import wait_container
from portside.containers.inspect import inspect_container, list_containers
from portside.containers.remove import remove_container
from portside.containers.restore import restore
from portside.containers.start import restart_container, start_container
from portside.containers.stop import kill_by_name, stop_container
from portside.containers.update import rename_container, reshape_container, update_container
from portside.model.container import ReshapeRequest, RestartPolicy, UpdateRequest
from portside.model.errors import (
    CommandNotFound,
    Conflict,
    InvalidParameter,
    NotFound,
    NotModified,
    SystemFailure,
    Unavailable,
)
from portside.model.network import PortBinding


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Kit]:
    made = kit(tmp_path)
    yield made
    await made.close()


def state(life: Kit, name: str = "box") -> str:
    return life.core.find(name).record.status


async def test_the_usual_way(life: Kit) -> None:
    identifier = await life.create()
    assert state(life) == "created"
    await start_container(life.core, life.core.find("box"))
    assert state(life) == "running"
    assert identifier in life.networks.attached
    waiting = wait_container(life.core.find("box"), "next-exit")
    life.monitor.exit(3)
    assert await waiting == (3, "")
    assert state(life) == "exited"
    assert life.networks.attached == {}
    await remove_container(life.core, life.core.find("box"))
    with pytest.raises(NotFound, match="No such container: box"):
        life.core.find("box")
    assert life.actions() == ["create", "start", "die", "destroy"]
    assert life.writables.ids == set()


async def test_start_twice_is_not_modified(life: Kit) -> None:
    await life.run()
    with pytest.raises(NotModified):
        await start_container(life.core, life.core.find("box"))


async def test_stop_sends_the_signal_and_reports_it(life: Kit) -> None:
    await life.run(config={"stop_signal": "SIGINT"})
    assert await stop_container(life.core, life.core.find("box")) == ""
    assert life.monitor.signals == [2]
    assert life.actions()[-3:] == ["kill", "stop", "die"]
    with pytest.raises(NotModified):
        await stop_container(life.core, life.core.find("box"))


async def test_stop_names_a_process_that_ignores_the_signal(life: Kit) -> None:
    life.launcher.ignores = {TERM}
    await life.run()
    word = await stop_container(life.core, life.core.find("box"), timeout=0)
    assert "ignores" in word and "--init" in word
    assert life.monitor.signals == [TERM, KILL]
    assert life.core.find("box").record.exit_code == 137


@pytest.mark.parametrize("again", [True, False])
async def test_a_kill_that_comes_too_late_kills_nothing_else(
    life: Kit, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Its control group may be that of the container's next start."""
    await life.run()
    container = life.core.find("box")
    ended = life.monitor

    async def signal(number: int, exec_id: str = "") -> None:
        ended.exit(0)
        if again:
            await container.exited.wait()
            await start_container(life.core, container)
        raise Unavailable("the monitor has ended")

    monkeypatch.setattr(ended, "signal", signal)
    monkeypatch.setattr(stop, "cgroup_of", lambda *_: pytest.fail("a control group is killed"))
    await kill_by_name(life.core, "box", "")
    assert state(life) == ("running" if again else "exited")


async def test_a_failed_start_leaves_nothing(life: Kit) -> None:
    await life.create()
    life.launcher.failures = [CommandNotFound('exec: "nope": not found')]
    with pytest.raises(CommandNotFound):
        await start_container(life.core, life.core.find("box"))
    record = life.core.find("box").record
    assert (record.status, record.exit_code) == ("created", 127)
    assert "nope" in record.error
    assert life.networks.attached == {}
    await start_container(life.core, life.core.find("box"))
    assert record.error == "" and record.status == "running"


async def test_a_failed_start_with_rm_removes(life: Kit) -> None:
    await life.create(auto_remove=True)
    gone = wait_container(life.core.find("box"), "removed")
    life.launcher.failures = [CommandNotFound("no")]
    with pytest.raises(CommandNotFound):
        await start_container(life.core, life.core.find("box"))
    assert (await gone)[0] == 127
    assert life.core.counts().total == 0


async def test_rm_waits_for_removal_and_takes_anonymous_volumes(life: Kit) -> None:
    await life.run(config={"volumes": {"/data": {}}}, auto_remove=True)
    assert len(life.volumes.volumes) == 1
    gone = wait_container(life.core.find("box"), "removed")
    life.monitor.exit(5)
    assert await gone == (5, "")
    assert life.volumes.volumes == {}
    assert life.actions()[-3:] == ["unmount", "die", "destroy"]


async def test_restart_keeps_a_container_with_rm(life: Kit) -> None:
    await life.run(auto_remove=True)
    await restart_container(life.core, life.core.find("box"))
    assert state(life) == "running" and len(life.launcher.monitors) == 2
    life.monitor.exit(0)
    await life.until(lambda: life.core.counts().total == 0)


async def test_removal_of_a_running_one_needs_force(life: Kit) -> None:
    await life.run()
    with pytest.raises(Conflict, match='cannot remove container "box": container is running'):
        await remove_container(life.core, life.core.find("box"))
    await remove_container(life.core, life.core.find("box"), force=True)
    assert life.actions()[-3:] == ["kill", "die", "destroy"]


async def test_names_are_unique_and_free_again(life: Kit) -> None:
    first = await life.create("web")
    with pytest.raises(Conflict, match=f'name "/web" is already in use by container "{first}"'):
        await life.create("web")
    await rename_container(life.core, life.core.find("web"), "old")
    second = await life.create("web")
    assert {c.id for c in life.core.containers.values()} == {first, second}
    with pytest.raises(Conflict):
        await rename_container(life.core, life.core.find("old"), "web")
    with pytest.raises(InvalidParameter, match="Invalid container name"):
        await rename_container(life.core, life.core.find("old"), "no/slash")


async def test_find_by_prefix(life: Kit) -> None:
    identifier = await life.create("web")
    assert life.core.find(identifier[:12]).id == identifier
    assert life.core.find("/web").id == identifier
    with pytest.raises(NotFound):
        life.core.find("nothing")


async def test_missing_image_leaves_nothing(life: Kit) -> None:
    with pytest.raises(NotFound, match="No such image: nope:latest"):
        await life.create(config={"image": "nope"})
    assert life.core.counts().total == 0 and life.writables.ids == set()


async def test_create_that_fails_late_gives_volumes_back(life: Kit) -> None:
    def refuse(*_: Any) -> None:
        raise SystemFailure("disk full")

    life.volumes.copy_up = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(SystemFailure):
        await life.create(config={"volumes": {"/data": {}}}, binds=("named:/n",))
    assert life.core.counts().total == 0
    assert set(life.volumes.volumes) == {"named"}, "the anonymous one is gone"
    assert not any(life.volumes.users.values())


# -- kill, pause, restart policies ---------------------------------------------------------------


async def test_kill_of_one_that_does_not_run(life: Kit) -> None:
    identifier = await life.create()
    with pytest.raises(
        Conflict, match=f"cannot kill container: box: container {identifier} is not"
    ):
        await kill_by_name(life.core, "box")
    with pytest.raises(InvalidParameter, match="invalid signal: NOPE"):
        await kill_by_name(life.core, "box", "NOPE")


def always(name: str = "always", count: int = 0) -> RestartPolicy:
    return RestartPolicy(name=name, maximum_retry_count=count)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Restart delays are noted, not waited for."""
    noted: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, *rest: Any) -> None:
        if delay > 0.01:
            noted.append(delay)
            delay = 0
        await sleep(delay)

    monkeypatch.setattr(asyncio, "sleep", note)
    return noted


async def test_a_manual_start_begins_the_back_off_anew(life: Kit, quick: list[float]) -> None:
    await life.run(restart_policy=always())
    for count in range(2, 6):
        life.monitor.exit(1)
        await life.until(lambda n=count: len(life.launcher.monitors) == n)
    await stop_container(life.core, life.core.find("box"))
    await start_container(life.core, life.core.find("box"))
    life.monitor.exit(1)
    await life.until(lambda: len(life.launcher.monitors) == 7)
    assert [round(delay, 1) for delay in quick] == [0.1, 0.2, 0.4, 0.8, 0.1]


async def test_always_restarts_with_growing_delays(life: Kit, quick: list[float]) -> None:
    await life.run(restart_policy=always())
    for count in range(2, 14):
        life.monitor.exit(0)
        await life.until(lambda n=count: len(life.launcher.monitors) == n)
    assert quick[:4] == [0.1, 0.2, 0.4, 0.8]
    assert quick[-1] == 60.0
    assert life.core.find("box").record.restart_count == 12
    life.monitor.exit(0, lived=11)
    await life.until(lambda: len(life.launcher.monitors) == 14)
    assert quick[-1] == 0.1, "a long life resets the delay"


async def test_on_failure_counts_and_gives_up(life: Kit, quick: list[float]) -> None:
    await life.run(restart_policy=always("on-failure", 2))
    for count in (2, 3):
        life.monitor.exit(1)
        await life.until(lambda n=count: len(life.launcher.monitors) == n)
    life.monitor.exit(1)
    await life.until(lambda: state(life) == "exited")
    await start_container(life.core, life.core.find("box"))
    life.monitor.exit(0)
    await life.until(lambda: state(life) == "exited")
    assert len(life.launcher.monitors) == 4


@pytest.mark.parametrize("name", ["always", "unless-stopped"])
async def test_a_stop_by_hand_is_final(life: Kit, name: str) -> None:
    await life.run(restart_policy=always(name))
    await stop_container(life.core, life.core.find("box"))
    assert state(life) == "exited"
    assert life.core.find("box").restart is None


async def test_waiting_for_the_next_start(life: Kit) -> None:
    """Docker's view of it: it runs, and stop, kill and rm -f end the waiting."""
    await life.run(restart_policy=always())
    life.monitor.exit(1)
    await life.until(lambda: state(life) == "restarting")
    shown = await inspect_container(life.core, life.core.find("box"))
    assert shown.state.running and shown.state.restarting and shown.state.pid == 0
    assert [item.state for item in await list_containers(life.core, {})] == ["restarting"]
    with pytest.raises(Conflict, match="is restarting, wait until the container is running"):
        await create_exec(life.core, life.core.find("box"), _command())
    with pytest.raises(Conflict, match="container is restarting: stop the container before"):
        await remove_container(life.core, life.core.find("box"))
    assert life.core.find("box").restart is not None, "a refused removal changes nothing"
    await kill_by_name(life.core, "box")
    assert state(life) == "exited"
    await remove_container(life.core, life.core.find("box"))


def _command() -> Any:
    from portside.model.container import ExecConfig

    return ExecConfig(cmd=("true",))


async def test_stop_during_a_start_waits_for_it(life: Kit) -> None:
    await life.create()
    begun, go = asyncio.Event(), asyncio.Event()
    start = life.launcher.start

    async def slow(*args: Any, **kind: Any) -> Any:
        begun.set()
        await go.wait()
        return await start(*args, **kind)

    life.launcher.start = slow  # type: ignore[method-assign]
    starting = asyncio.create_task(start_container(life.core, life.core.find("box")))
    await begun.wait()
    stopping = asyncio.create_task(stop_container(life.core, life.core.find("box")))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(starting, stopping)
    assert state(life) == "exited"


async def test_wait_conditions(life: Kit) -> None:
    await life.create()
    assert await wait_container(life.core.find("box"), "not-running") == (0, "")
    with pytest.raises(InvalidParameter, match="invalid condition"):
        wait_container(life.core.find("box"), "sometime")
    await start_container(life.core, life.core.find("box"))
    both = [
        wait_container(life.core.find("box"), ""),
        wait_container(life.core.find("box"), "next-exit"),
    ]
    given_up = wait_container(life.core.find("box"), "removed")
    given_up.cancel()
    life.monitor.exit(9)
    assert await asyncio.gather(*both) == [(9, ""), (9, "")]
    await asyncio.sleep(0)
    assert life.core.find("box").waiters == []


async def test_oom_is_reported(life: Kit) -> None:
    await life.run()
    life.monitor.exit(137, oom_killed=True)
    await life.until(lambda: state(life) == "exited")
    assert life.actions()[-2:] == ["oom", "die"]
    assert (await inspect_container(life.core, life.core.find("box"))).state.oom_killed


# -- update --------------------------------------------------------------------------------------


async def test_update_of_policies(life: Kit) -> None:
    await life.create(auto_remove=True)
    with pytest.raises(
        Conflict, match=r"^Cannot update container [0-9a-f]{64}: Restart policy cannot"
    ):
        await update_container(
            life.core, life.core.find("box"), UpdateRequest(restart_policy=always())
        )
    await life.create("other")
    await update_container(
        life.core,
        life.core.find("other"),
        UpdateRequest(restart_policy=always("on-failure", 3)),
    )
    assert life.core.find("other").record.host.restart_policy.maximum_retry_count == 3
    with pytest.raises(InvalidParameter, match="unknown policy"):
        await update_container(
            life.core,
            life.core.find("other"),
            UpdateRequest(restart_policy=always("never")),
        )


async def test_ports_and_labels_change_live(life: Kit) -> None:
    identifier = await life.run(config={"labels": {"a": "1", "b": "2"}})
    asked = ReshapeRequest(
        port_bindings={"80": (PortBinding(host_port="8080"),)}, labels={"a": None, "box": "3"}
    )
    done = await reshape_container(life.core, life.core.find("box"), asked)
    assert (done.live, done.recreated, done.restarted) == (("ports", "labels"), (), False)
    request = life.networks.attached[identifier]
    assert request.port_bindings == {"80/tcp": (PortBinding(host_port="8080"),)}
    record = life.core.find("box").record
    assert record.config.labels == {"b": "2", "box": "3"}
    life.networks.failure = SystemFailure("port is already allocated")
    with pytest.raises(SystemFailure):
        await reshape_container(
            life.core,
            life.core.find("box"),
            ReshapeRequest(port_bindings={"80/tcp": None}),
        )
    assert record.host.port_bindings == {"80/tcp": (PortBinding(host_port="8080"),)}


async def test_a_published_port_is_added_to_those_there(life: Kit) -> None:
    """As ``run -p`` twice; the same again is no change, and only what is there is removed."""
    identifier = await life.run()
    container = life.core.find("box")
    first, second = PortBinding(host_port="8080"), PortBinding(host_port="8081")
    for added in (first, second, second):
        asked = ReshapeRequest(port_bindings={"80/tcp": (added,)})
        await reshape_container(life.core, container, asked)
    assert life.networks.attached[identifier].port_bindings == {"80/tcp": (first, second)}
    for missing in (ReshapeRequest(unpublish=("9999",)), ReshapeRequest(port_bindings={"9": None})):
        with pytest.raises(NotFound, match="is not published"):
            await reshape_container(life.core, container, missing)
    replaced = ReshapeRequest(unpublish=("80",), port_bindings={"80": (second,)})
    await reshape_container(life.core, container, replaced)
    assert container.record.host.port_bindings == {"80/tcp": (second,)}
    await reshape_container(life.core, container, ReshapeRequest(unpublish=("80/tcp",)))
    assert container.record.host.port_bindings == {}


async def test_environment_changes_by_starting_again(life: Kit) -> None:
    identifier = await life.run(config={"env": ("A=1", "B=2")}, auto_remove=True)
    asked = ReshapeRequest(env=("A=9", "B", "C=3"))
    with pytest.raises(Conflict, match="--restart"):
        await reshape_container(life.core, life.core.find("box"), asked)
    asked.restart = True
    done = await reshape_container(life.core, life.core.find("box"), asked)
    assert done.recreated == ("environment",) and done.restarted
    record = life.core.find("box").record
    assert record.id == identifier and record.running and len(life.launcher.monitors) == 2
    assert set(record.config.env or ()) == {"A=9", "C=3", "PATH=/bin"}


async def test_mounts_change_and_volumes_are_given_back(life: Kit) -> None:
    identifier = await life.create(binds=("one:/data", "/tmp:/host"))
    asked = ReshapeRequest(binds=("two:/data",), unmount=("/host",))
    done = await reshape_container(life.core, life.core.find("box"), asked)
    assert done.recreated == ("mounts",) and not done.restarted
    record = life.core.find("box").record
    assert [(p.destination, p.name) for p in record.mounts] == [("/data", "two")]
    assert record.host.binds == ("two:/data",)
    assert life.volumes.users == {"one": set(), "two": {identifier}}
    with pytest.raises(NotFound, match="nothing is mounted at /nowhere"):
        await reshape_container(
            life.core, life.core.find("box"), ReshapeRequest(unmount=("/nowhere",))
        )


# -- after a crash -------------------------------------------------------------------------------


async def test_a_restarted_engine_reports_the_truth(tmp_path: Path) -> None:
    """No monitor answers: what ran is over, a half-made one is undone, a removal is finished."""
    first = kit(tmp_path)
    await first.run("ran")
    await first.create("idle")
    half = await first.create("half", config={"volumes": {"/v": {}}})
    going = await first.create("going", config={"volumes": {"/v": {}}})
    core = first.core
    for name in ("half", "going"):
        record = core.find(name).record
        record.making, record.removing = name == "half", name == "going"
        record.remove_volumes = name == "going"
        core.save(core.find(name))
        if name == "half":
            record.mounts = ()
            core.save(core.find(name))
    second = kit(tmp_path)
    second.writables.ids = first.writables.ids
    second.volumes = first.volumes
    second.core.volumes = first.volumes
    await restore(second.core)
    names = {c.name: c.record for c in second.core.containers.values()}
    assert set(names) == {"ran", "idle"}
    assert names["ran"].status == "exited" and names["ran"].exit_code == 255
    assert names["idle"].status == "created"
    assert not any({half, going} & users for users in first.volumes.users.values())
    await second.close()


async def test_policies_start_what_should_run(tmp_path: Path, quick: list[float]) -> None:
    first = kit(tmp_path)
    await first.run("always", restart_policy=always())
    await first.run("stopped", restart_policy=always("unless-stopped"))
    await stop_container(first.core, first.core.find("stopped"))
    await first.run("stopped-always", restart_policy=always())
    await stop_container(first.core, first.core.find("stopped-always"))
    second = kit(tmp_path)
    second.writables.ids = first.writables.ids
    await restore(second.core)
    await second.until(lambda: len(second.launcher.monitors) == 2)
    running = {c.name for c in second.core.containers.values() if c.record.running}
    assert running == {"always", "stopped-always"}, "always means also after a stop by hand"
    await second.close()
