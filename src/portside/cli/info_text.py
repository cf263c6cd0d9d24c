"""The text of ``info``."""

from __future__ import annotations

from portside.cli.session import describe
from portside.model.errors import PortsideError
from portside.model.golang.sizes import binary_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.session import Session

    Item = dict[str, Any]


def show(session: Session, format: str) -> int:
    """Print it; the exit status."""
    from portside import __version__

    problem = ""
    server: Item = {}
    try:
        server = session.client.get("/info")
    except PortsideError as err:
        problem = describe(err)
    client: Item = {
        "Debug": session.debug,
        "Version": __version__,
        "Context": session.context,
    }
    if format:
        from portside.cli.format import print_value

        if problem:
            server["ServerErrors"] = [problem]
        client["Plugins"] = _plugins(session)
        print_value(session, format, {**server, "ClientInfo": client}, kind="dockerInfo")
        return 1 if problem else 0
    session.out("Client:")
    session.out(f" Version:    {client['Version']}")
    session.out(f" Context:    {client['Context']}")
    session.out(f" Debug Mode: {_bool(session.debug)}")
    session.out("\nServer:")
    if problem:
        session.warn(f"ERROR: {problem}\nerrors pretty printing info")
        return 1
    session.out("\n".join(_server(server)) + "\n")
    for warning in server.get("Warnings") or ():
        session.warn(warning)
    return 0


def _bool(value: object) -> str:
    return "true" if value else "false"


def _server(info: Item) -> list[str]:
    lines = [
        f" Containers: {info['Containers']}",
        f"  Running: {info['ContainersRunning']}",
        f"  Paused: {info['ContainersPaused']}",
        f"  Stopped: {info['ContainersStopped']}",
        f" Images: {info['Images']}",
        f" Server Version: {info['ServerVersion']}",
        f" Storage Driver: {info['Driver']}",
    ]
    lines += [f"  {name}: {value}" for name, value in info.get("DriverStatus") or ()]
    lines += [
        f" Logging Driver: {info['LoggingDriver']}",
        f" Cgroup Driver: {info['CgroupDriver']}",
    ]
    lines += [f" Cgroup Version: {info.get('CgroupVersion') or 1}", " Plugins:"]
    plugins = info.get("Plugins") or {}
    for kind in ("Volume", "Network", "Authorization", "Log"):
        if plugins.get(kind):
            lines.append(f"  {kind}: {' '.join(plugins[kind])}")
    if info.get("CDISpecDirs"):
        lines += [" CDI spec directories:", *(f"  {path}" for path in info["CDISpecDirs"])]
    lines.append(f" Swarm: {(info.get('Swarm') or {}).get('LocalNodeState', 'inactive')}")
    lines.append(f" Runtimes: {' '.join(sorted(info.get('Runtimes') or ()))}")
    lines.append(f" Default Runtime: {info.get('DefaultRuntime', '')}")
    if info.get("InitBinary"):
        lines.append(f" Init Binary: {info['InitBinary']}")
    lines += _security(info)
    lines += [
        f" Kernel Version: {info['KernelVersion']}",
        f" Operating System: {info['OperatingSystem']}",
        f" OSType: {info['OSType']}",
        f" Architecture: {info['Architecture']}",
        f" CPUs: {info['NCPU']}",
        f" Total Memory: {binary_size(info['MemTotal'])}",
        f" Name: {info['Name']}",
        f" ID: {info['ID']}",
        f" Docker Root Dir: {info['DockerRootDir']}",
        f" Debug Mode: {_bool(info['Debug'])}",
    ]
    if info["Debug"]:
        lines += [
            f"  File Descriptors: {info['NFd']}",
            f"  Goroutines: {info['NGoroutines']}",
            f"  System Time: {info['SystemTime']}",
            f"  EventsListeners: {info['NEventsListener']}",
        ]
    return lines + _networking(info)


def _security(info: Item) -> list[str]:
    options = info.get("SecurityOptions") or ()
    lines = [" Security Options:"] if options else []
    for option in options:
        pairs = [part.partition("=") for part in option.split(",")]
        for name, _, value in pairs:
            if name == "name":
                lines.append(f"  {value}")
            else:
                lines.append(f"   {name[:1].upper()}{name[1:]}: {value}")
    return lines


def _networking(info: Item) -> list[str]:
    lines = []
    for key, title in (("HttpProxy", "HTTP Proxy"), ("HttpsProxy", "HTTPS Proxy"),
                       ("NoProxy", "No Proxy")):  # fmt: skip
        if info.get(key):
            lines.append(f" {title}: {info[key]}")
    if info.get("Labels"):
        lines += [" Labels:", *(f"  {label}" for label in info["Labels"])]
    lines.append(f" Experimental: {_bool(info.get('ExperimentalBuild'))}")
    registries = info.get("RegistryConfig") or {}
    insecure = [
        name
        for name, entry in (registries.get("IndexConfigs") or {}).items()
        if not entry.get("Secure")
    ]
    insecure += registries.get("InsecureRegistryCIDRs") or ()
    if insecure:
        lines += [" Insecure Registries:", *(f"  {name}" for name in insecure)]
    if registries.get("Mirrors"):
        lines += [" Registry Mirrors:", *(f"  {mirror}" for mirror in registries["Mirrors"])]
    lines.append(f" Live Restore Enabled: {_bool(info.get('LiveRestoreEnabled'))}")
    if info.get("DefaultAddressPools"):
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}"
                  for pool in info["DefaultAddressPools"]]  # fmt: skip
    if (info.get("FirewallBackend") or {}).get("Driver"):
        lines.append(f" Firewall Backend: {info['FirewallBackend']['Driver']}")
    return lines


def _plugins(session: Session) -> list[dict[str, str]]:
    """The commands that plugins add."""
    from portside.cli import commands, plugins

    return plugins.described(session.config, commands.own_names())
