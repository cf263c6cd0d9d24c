"""``update``: limits as in Docker, and what Docker fixes at creation."""

from __future__ import annotations

from portside.cli.verb import verb
from portside.client.client import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session
    from portside.flags.table import Options

_NUMBERS = {
    "blkio-weight": "BlkioWeight", "cpu-period": "CpuPeriod", "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod", "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares", "cpus": "NanoCpus", "memory": "Memory",
    "memory-reservation": "MemoryReservation", "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit", "kernel-memory": "KernelMemory",
}  # fmt: skip
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


@verb("container update", "update", usage="[OPTIONS] CONTAINER [CONTAINER...]",
      about="Change limits, ports, environment, mounts and labels of containers",
      arguments=(1, None), completes="container", flags="""
      --blkio-weight uint16        Weight of block I/O, 10 to 1000; 0 for none
      --cpu-period int             Period of the CPU quota in microseconds
      --cpu-quota int              CPU time in each period in microseconds
      --cpu-rt-period int          Period of the real-time limit in microseconds
      --cpu-rt-runtime int         Real-time CPU time in each period in microseconds
  -c, --cpu-shares int             Relative weight of CPU time
      --cpus decimal               Number of CPUs, such as 1.5
      --cpuset-cpus string         CPUs that the container may use (0-3, 0,1)
      --cpuset-mems string         Memory nodes that the container may use (0-3, 0,1)
  -e, --env list                   Set a variable (needs a restart)
      --env-rm list                Remove a variable (needs a restart)
      --kernel-memory bytes        hidden:
  -l, --label list                 Set a label (NAME=VALUE)
      --label-rm list              Remove a label
  -m, --memory bytes               Limit of memory
      --memory-reservation bytes   Memory that is protected when the machine runs short
      --memory-swap swap           Limit of memory and swap together; -1 for unlimited swap
      --mount mount                Add a mount (needs a restart)
      --pids-limit int             Limit of processes; -1 for none
  -p, --publish list               Publish another port of the running container
                                   ([[IP:][HOST_PORT]:]PORT[/PROTOCOL])
      --publish-rm list            Remove all that publishes this port of the container, live,
                                   before --publish adds (PORT[/PROTOCOL])
      --restart string             When to restart the container: no, on-failure[:N], always,
                                   unless-stopped or on-unhealthy
      --restart-now                Restart the container if a change needs a restart
      --unmount list               Remove a mount (PATH; needs a restart)
  -v, --volume list                Mount a directory or a volume (needs a restart)
""")  # fmt: skip
def update(session: Session, options: Options, arguments: list[str]) -> int:
    from portside.cli.container_config import restart_policy

    limits: dict[str, Any] = {
        name: options.number(flag) for flag, name in _NUMBERS.items() if options.given(flag)
    }
    limits |= {name: options.text(flag) for flag, name in _TEXTS.items() if options.given(flag)}
    if options.given("restart"):
        limits["RestartPolicy"] = restart_policy(options.text("restart"))
    shape = _shape(options)
    if not limits and not shape:
        from portside.model.errors import InvalidParameter

        raise InvalidParameter("you must provide one or more flags when using this command")
    client = session.client

    def act(name: str) -> None:
        if limits:
            answer = client.post(path_of("containers", name, "update"), body=limits)
            _warn(session, answer)
        if shape:
            path = path_of("portside", "containers", name, "update")
            answer = client.post(path, body=shape)
            _warn(session, answer)
            if answer.get("Recreated"):
                how = "restarted with" if answer.get("Restarted") else "at its next start:"
                session.warn(f"{name}: {how} new {', '.join(answer['Recreated'])}")

    return session.each(arguments, act)


def _warn(session: Session, answer: dict[str, Any]) -> None:
    for warning in answer.get("Warnings") or ():
        session.warn(f"WARNING: {warning}")


def _shape(options: Options) -> dict[str, Any]:
    """The body of Portside's own endpoint, for changes that Docker does not support."""
    from portside.cli import envfile, mount_flags, port_flags

    body: dict[str, Any] = {}
    if added := port_flags.published(options.many("publish")):
        body["PortBindings"] = added
    if removed := port_flags.exposed(options.many("publish-rm"), "--publish-rm"):
        body["Unpublish"] = list(removed)
    environment = envfile.environment([], options.many("env")) + options.many("env-rm")
    if environment:
        body["Env"] = environment
    labels: dict[str, Any] = dict(envfile.labels([], options.many("label")))
    labels |= dict.fromkeys(options.many("label-rm"))
    if labels:
        body["Labels"] = labels
    binds, anonymous = mount_flags.volumes(options.many("volume"))
    if binds or anonymous:
        body["Binds"] = [*binds, *anonymous]
    if options.many("mount"):
        body["Mounts"] = options.many("mount")
    if options.many("unmount"):
        body["Unmount"] = options.many("unmount")
    if body and options.flag("restart-now"):
        body["Restart"] = True
    return body
