"""A user's engine as a service of a live systemd that delegates control groups of version 2."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from enginekit import ROOT
from systemdkit import CGROUP_V2, Machine, refuse_reason

REASON = refuse_reason() or ("" if CGROUP_V2 else "needs control groups of version 2 alone")
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON or "-"), pytest.mark.timeout(1500)]
BASE = "portside/base"
TRAP = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 1 & wait; done"
USER = "ann"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        made.boot()
        made.call(
            f"useradd -u {random.randrange(30000, 59000)} -m -s /bin/sh {USER} && "
            "ip link add out type veth peer name far && "
            "ip address add 192.0.2.2/24 dev out && ip link set out up && ip link set far up && "
            "ip route add default via 192.0.2.1"
        )
        made.call(f"loginctl enable-linger {USER}")
        made.until(f"systemctl is-active user@$(id -u {USER}).service", "active")
        made.portside("daemon install", user=USER)
        made.portside(
            "run -d --name lives --restart unless-stopped -m 64m --memory-swap 64m --cpus 0.5 "
            f'--pids-limit 50 {BASE} sh -c "{TRAP}"',
            user=USER,
        )
        made.until(f"{ROOT}/portside logs lives", "up", user=USER)
        yield made
    finally:
        made.close()


def systemctl(machine: Machine, words: str, *, check: bool = True) -> str:
    return machine.call(
        f"XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {words}", user=USER, check=check
    )


def limits(machine: Machine, name: str = "lives") -> str:
    files = " ".join(f"/sys/fs/cgroup/{each}" for each in ("memory.max", "cpu.max", "pids.max"))
    return machine.portside(f"exec {name} cat {files}", user=USER)


def pid(machine: Machine, name: str = "lives") -> str:
    return machine.portside(f"inspect -f '{{{{.State.Pid}}}}' {name}", user=USER).split("\n")[-1]


def test_limits_are_enforced(machine: Machine) -> None:
    assert limits(machine) == f"{64 << 20}\n50000 100000\n50"
    said = machine.portside("info --format '{{.MemoryLimit}} {{.PidsLimit}} {{.CgroupVersion}}'",
                            user=USER)  # fmt: skip
    assert said == "true true 2"
    hungry = "x=x; while true; do x=$x$x$x$x; done"
    machine.portside(f"run --name hungry -m 16m --memory-swap 16m {BASE} sh -c '{hungry}'",
                     user=USER, check=False)  # fmt: skip
    assert machine.portside("inspect -f '{{.State.OOMKilled}}' hungry", user=USER) == "true"
    machine.portside("rm hungry", user=USER)


@pytest.mark.parametrize(
    "action", ["restart portside", "kill -s KILL portside", "stop portside", "daemon-reload"]
)
def test_containers_outlive_the_service(machine: Machine, action: str) -> None:
    before = pid(machine)
    systemctl(machine, action)
    systemctl(machine, "start portside")
    assert pid(machine) == before
    assert limits(machine) == f"{64 << 20}\n50000 100000\n50"
    machine.portside("update --pids-limit 50 lives", user=USER)
    machine.portside(f"run --rm -m 32m {BASE} true", user=USER)
    machine.portside("pause lives", user=USER)
    machine.portside("unpause lives", user=USER)
    stats = machine.portside(
        "stats --no-stream --format '{{.MemUsage}} {{.PIDs}}' lives", user=USER
    )
    assert "/ 64MiB" in stats and not stats.startswith("0B")


def test_a_killed_keeper_and_engine(machine: Machine) -> None:
    before = pid(machine)
    machine.call(f"pkill -9 -u {USER} -x portside-keeper; pkill -9 -u {USER} -x portside-guard")
    systemctl(machine, "kill -s KILL portside")
    systemctl(machine, "start portside")
    assert pid(machine) == before
    assert limits(machine) == f"{64 << 20}\n50000 100000\n50"


def test_logout_with_lingering_and_without(machine: Machine) -> None:
    before = pid(machine)
    machine.call(f"for session in $(loginctl --no-legend list-sessions | awk '$3 == \"{USER}\" "
                 "{print $1}'); do loginctl terminate-session $session; done")  # fmt: skip
    assert pid(machine) == before
    machine.call(f"loginctl disable-linger {USER}; loginctl terminate-user {USER} || true")
    machine.until(f"ps -u {USER} -o pid= | wc -l", "0")
    machine.call(f"loginctl enable-linger {USER}")
    machine.until(f"systemctl is-active user@$(id -u {USER}).service", "active")
    machine.until(f"{ROOT}/portside logs lives", "up", user=USER)
    assert machine.portside("logs lives", user=USER) == "up\nbye\nup"
    assert limits(machine) == f"{64 << 20}\n50000 100000\n50"


def test_nothing_is_left(machine: Machine) -> None:
    machine.portside("system reset --force", user=USER)
    machine.portside("daemon uninstall", user=USER)
    machine.until("find /sys/fs/cgroup -name '*portside*' | wc -l", "0")
