"""The engine as a service of a live systemd: root's, and one of a user."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from enginekit import ROOT
from systemdkit import Machine, refuse_reason

pytestmark = [
    pytest.mark.skipif(bool(refuse_reason()), reason=refuse_reason() or "-"),
    pytest.mark.timeout(600),
]
BASE = "portside/base"
TRAP = "trap 'echo bye; exit 0' {}; echo up; while :; do sleep 1 & wait; done"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        made.boot()
        yield made
    finally:
        made.close()


def run(machine: Machine, name: str, *words: str, signal: str = "TERM", user: str = "") -> str:
    """A container that says goodbye to one signal alone; the PID of its first process."""
    command = TRAP.format(signal)
    machine.portside(
        f'run -d --name {name} --stop-signal {signal} {" ".join(words)} {BASE} sh -c "{command}"',
        user=user,
    )
    machine.until(f"{ROOT}/portside logs {name}", "up", user=user)
    return pid_of(machine, name, user=user)


def pid_of(machine: Machine, name: str, *, user: str = "") -> str:
    found = machine.portside(f"inspect -f '{{{{.State.Pid}}}}' {name}", user=user)
    return found.split("\n")[-1]


def test_an_engine_in_the_background_becomes_the_service(machine: Machine) -> None:
    pid = run(machine, "early")
    said = machine.portside("daemon install")
    assert f"for {ROOT}/portside" in said and "its containers continue" in said
    assert machine.call("systemctl is-active portside.service portside.socket") == "active\nactive"
    assert "runs as the service portside.service" in machine.portside("daemon status")
    assert pid_of(machine, "early") == pid
    machine.portside("daemon install")
    assert pid_of(machine, "early") == pid, "a second time it is the same"
    assert "portside-run.1" in machine.call("ls /usr/local/share/man/man1")
    assert "portside" in machine.call(
        "bash -c '. /usr/local/share/bash-completion/completions/portside; complete -p portside'"
    )


@pytest.mark.parametrize(
    "action", ["restart portside", "kill -s KILL portside", "stop portside", "daemon-reexec"]
)
def test_containers_outlive_the_service(machine: Machine, action: str) -> None:
    pid = pid_of(machine, "early")
    machine.call(f"systemctl {action}")
    assert machine.portside(f"exec early echo {pid}") == pid
    assert pid_of(machine, "early") == pid


def test_looking_and_stopping_start_no_engine(machine: Machine) -> None:
    machine.portside("daemon start")
    machine.portside("daemon stop")
    machine.until("systemctl is-active portside.service", "inactive")
    assert "No engine runs" in machine.portside("daemon status; echo $?", check=False)
    assert "no engine runs" in machine.portside("daemon stop", check=False)
    assert machine.call("systemctl is-active portside.service || true") == "inactive"
    machine.call("systemctl stop portside.socket")
    assert "as the service portside.service" in machine.portside("ps")
    assert machine.call("systemctl is-active portside.service portside.socket") == "active\nactive"


def test_the_end_of_the_machine_stops_containers_in_order(machine: Machine) -> None:
    run(machine, "quits", "--restart unless-stopped", signal="QUIT")
    run(machine, "stopped", "--restart unless-stopped")
    machine.portside("stop stopped")
    machine.shut_down()
    machine.boot()
    machine.call("systemctl start portside.service")
    machine.until(f"{ROOT}/portside logs quits", "up")
    assert machine.portside("logs quits") == "up\nbye\nup"
    assert machine.portside("logs early") == "up\nbye"
    state = "{{.State.Status}} {{.State.ExitCode}}"
    assert machine.portside(f"inspect -f '{state}' early stopped") == "exited 0\nexited 0"


def test_reset_and_uninstall_leave_nothing(machine: Machine) -> None:
    machine.portside("system reset --force")
    assert machine.call("ls -A /var/lib/portside") == ""
    assert machine.portside(f"run --rm {BASE} echo hello").endswith("hello")
    machine.portside("system reset --force")
    machine.portside("daemon uninstall")
    assert "Nothing to remove" in machine.portside("system reset --force")
    # the host's own files below these directories may have the name as well
    left = machine.call(
        "find /etc/systemd /usr/local/share /run /var/log -name '*portside*'; ls -A /run/portside"
        " /sys/fs/cgroup/portside /sys/fs/cgroup/unified/portside 2>/dev/null || true"
    )
    assert left == ""


@pytest.fixture(scope="module")
def user(machine: Machine) -> str:
    # an ID of its own: the machine outside sees these processes, and may have users as well
    machine.call(
        f"useradd -u {random.randrange(30000, 59000)} -m -s /bin/sh ann && "
        "ip link add out type veth peer name far && "
        "ip address add 192.0.2.2/24 dev out && ip link set out up && ip link set far up && "
        "ip route add default via 192.0.2.1"
    )  # pasta copies the interface of the default route
    machine.call("loginctl enable-linger ann")
    machine.until("systemctl is-active user@$(id -u ann).service", "active")
    return "ann"


def test_a_users_service_and_lingering(machine: Machine, user: str) -> None:
    said = machine.portside("daemon install", user=user)
    assert "loginctl enable-linger" in said
    pid = run(machine, "lives", "--restart unless-stopped", user=user)
    run(machine, "once", user=user)
    machine.portside("daemon restart", user=user)
    assert pid_of(machine, "lives", user=user) == pid
    machine.call(f"for session in $(loginctl --no-legend list-sessions | awk '$3 == \"{user}\" "
                 "{print $1}'); do loginctl terminate-session $session; done")  # fmt: skip
    assert pid_of(machine, "lives", user=user) == pid, "the user lingers"


def test_the_last_logout_stops_containers_in_order(machine: Machine, user: str) -> None:
    machine.call(f"loginctl disable-linger {user}; loginctl terminate-user {user} || true")
    machine.until(f"ps -u {user} -o pid= | wc -l", "0")
    machine.until(f"ls -d /run/user/$(id -u {user}) 2>/dev/null | wc -l", "0")
    machine.call(f"loginctl enable-linger {user}")  # as the next login
    machine.until(f"systemctl is-active user@$(id -u {user}).service", "active")
    machine.until(f"{ROOT}/portside logs lives", "up", user=user)
    assert machine.portside("logs lives", user=user) == "up\nbye\nup"
    assert machine.portside("logs once", user=user) == "up\nbye"
    machine.portside("system reset --force", user=user)
    machine.portside("daemon uninstall", user=user)
    machine.call(f"loginctl disable-linger {user}; loginctl terminate-user {user} || true")
    machine.until(f"ps -u {user} -o pid= | wc -l", "0")
    assert machine.call(f"find /home/{user}/.local /home/{user}/.config -name '*portside*'"
                        " 2>/dev/null || true") == ""  # fmt: skip
