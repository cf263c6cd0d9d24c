"""From flags to the body of ``POST /containers/create``.

Only what was asked for is sent: what is absent has the engine's default.
"""

from __future__ import annotations

from portside.cli import device_flags, envfile, mount_flags, network_flags, port_flags
from portside.flags.table import invalid
from portside.model import jsontext
from portside.model.errors import InvalidParameter, SystemFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.flags.table import Options

    Document = dict[str, Any]

STREAMS = ("stdin", "stdout", "stderr")
_SYSCTLS = frozenset(
    ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
     "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced")
)  # fmt: skip


def build(options: Options, image: str, command: list[str], proxies: dict[str, str]) -> Document:
    """The body of the request. Raises UsageError, InvalidParameter."""
    networks = network_flags.attachments(options)
    binds, anonymous = mount_flags.volumes(options.many("volume"))
    published = port_flags.published(options.many("publish"))
    config = _config(options, image, command, proxies)
    if found := {**port_flags.exposed(options.many("expose")), **{port: {} for port in published}}:
        config["ExposedPorts"] = found
    if anonymous:
        config["Volumes"] = anonymous
    host = _host_config(options)
    host["NetworkMode"] = networks[0]["target"]
    if published:
        host["PortBindings"] = published
    if binds:
        host["Binds"] = binds
    config["HostConfig"] = host
    settings = {network["target"]: network_flags.endpoint(network) for network in networks}
    if len(networks) > 1 or any(settings.values()):
        config["NetworkingConfig"] = {"EndpointsConfig": settings}
    return config


# -- Config ----------------------------------------------------------------------------------


def _config(options: Options, image: str, command: list[str], proxies: dict[str, str]) -> Document:
    attached = _attached(options)
    wants_stdin = options.flag("interactive")
    config: Document = {
        "Image": image,
        "Cmd": command or None,
        "AttachStdin": "stdin" in attached,
        "AttachStdout": "stdout" in attached,
        "AttachStderr": "stderr" in attached,
        "Tty": options.flag("tty"),
        "OpenStdin": wants_stdin,
        "StdinOnce": wants_stdin and "stdin" in attached,
        "Env": _environment(options, proxies) or None,
        "Labels": envfile.labels(options.many("label-file"), options.many("label")),
    }
    for flag, name in (
        ("hostname", "Hostname"),
        ("domainname", "Domainname"),
        ("user", "User"),
        ("workdir", "WorkingDir"),
        ("stop-signal", "StopSignal"),
    ):
        if options.given(flag):
            config[name] = options.text(flag)
    if options.given("stop-timeout"):
        config["StopTimeout"] = options.number("stop-timeout")
    if options.given("entrypoint"):
        config["Entrypoint"] = [options.text("entrypoint")]
    if health := _health(options):
        config["Healthcheck"] = health
    return config


def _attached(options: Options) -> set[str]:
    """Streams the caller is attached to."""
    given = set()
    for text in options.many("attach"):
        if text.lower() not in STREAMS:
            raise invalid("-a, --attach", text, "valid streams are STDIN, STDOUT and STDERR")
        given.add(text.lower())
    if options.flag("detach"):
        return set()
    if given:
        return given
    return {"stdout", "stderr", *(("stdin",) if options.flag("interactive") else ())}


def _environment(options: Options, proxies: dict[str, str]) -> list[str]:
    for text in options.many("env"):
        try:
            envfile.check_variable(text)
        except ValueError as err:
            raise invalid("-e, --env", text, str(err)) from None
    given = options.many("env")
    names = {text.partition("=")[0] for text in given}
    added = [f"{name}={value}" for name, value in proxies.items() if name not in names]
    return envfile.environment(options.many("env-file"), [*given, *added])


def _health(options: Options) -> Document | None:
    times = {
        "health-interval": "Interval",
        "health-timeout": "Timeout",
        "health-start-period": "StartPeriod",
        "health-start-interval": "StartInterval",
    }
    given = [flag for flag in (*times, "health-cmd", "health-retries") if options.given(flag)]
    if options.flag("no-healthcheck"):
        if given:
            raise InvalidParameter("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return None
    health: Document = {}
    if options.text("health-cmd"):
        health["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    for flag in ("health-interval", "health-timeout", "health-retries", "health-start-period",
                 "health-start-interval"):  # fmt: skip
        number = options.number(flag)
        if number is None:
            continue
        if number < 0:
            raise InvalidParameter(f"--{flag} cannot be negative")
        health[times.get(flag, "Retries")] = number
    return health


# -- HostConfig ------------------------------------------------------------------------------

_TEXTS = {
    "cgroup-parent": "CgroupParent", "cgroupns": "CgroupnsMode", "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems", "ipc": "IpcMode", "isolation": "Isolation", "pid": "PidMode",
    "runtime": "Runtime", "userns": "UsernsMode", "uts": "UTSMode", "cidfile": "ContainerIDFile",
    "volume-driver": "VolumeDriver",
}  # fmt: skip
_NUMBERS = {
    "blkio-weight": "BlkioWeight", "cpu-period": "CpuPeriod", "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod", "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares", "cpus": "NanoCpus", "memory": "Memory",
    "memory-reservation": "MemoryReservation", "memory-swap": "MemorySwap",
    "memory-swappiness": "MemorySwappiness", "oom-score-adj": "OomScoreAdj",
    "pids-limit": "PidsLimit", "shm-size": "ShmSize",
}  # fmt: skip
_LISTS = {
    "dns": "Dns", "dns-option": "DnsOptions",
    "dns-search": "DnsSearch", "group-add": "GroupAdd", "link": "Links", "mount": "Mounts",
    "volumes-from": "VolumesFrom", "device-cgroup-rule": "DeviceCgroupRules",
}  # fmt: skip
_SWITCHES = {
    "init": "Init", "oom-kill-disable": "OomKillDisable", "privileged": "Privileged",
    "publish-all": "PublishAllPorts", "read-only": "ReadonlyRootfs", "rm": "AutoRemove",
}  # fmt: skip
_THROTTLES = {
    "device-read-bps": "BlkioDeviceReadBps", "device-write-bps": "BlkioDeviceWriteBps",
    "device-read-iops": "BlkioDeviceReadIOps", "device-write-iops": "BlkioDeviceWriteIOps",
}  # fmt: skip


_SENT_EMPTY = (
    *_THROTTLES.values(), "BlkioWeightDevice", "Devices", "Dns", "DnsOptions", "DnsSearch",
    "Ulimits",
)  # fmt: skip
"""Docker's command sends these even when they are empty, so ``inspect`` shows ``[]``."""


def _host_config(options: Options) -> Document:
    _check_modes(options)
    host: Document = {
        "RestartPolicy": restart_policy(options.text("restart", "no")),
        "OomKillDisable": False,
        **{name: [] for name in _SENT_EMPTY},
    }
    for flag, name in _TEXTS.items():
        if options.text(flag):
            host[name] = options.text(flag)
    for flag, name in _NUMBERS.items():
        if options.given(flag):
            host[name] = options.number(flag)
    for flag, name in _LISTS.items():
        if options.many(flag):
            host[name] = options.many(flag)
    for flag, name in _SWITCHES.items():
        if options.given(flag):
            host[name] = options.flag(flag)
    for flag, name in _THROTTLES.items():
        if options.many(flag):
            host[name] = device_flags.throttles(flag, options.many(flag))
    if options.many("blkio-weight-device"):
        host["BlkioWeightDevice"] = device_flags.weights(options.many("blkio-weight-device"))
    if options.many("tmpfs"):
        host["Tmpfs"] = mount_flags.tmpfs(options.many("tmpfs"))
    added, dropped = _capabilities(options.many("cap-add"), options.many("cap-drop"))
    if added:
        host["CapAdd"] = added
    if dropped:
        host["CapDrop"] = dropped
    for text in options.many("dns"):
        if not port_flags._is_address(text):
            raise invalid("--dns", text, f"IP address is not correctly formatted: {text}")
    _put_maps(host, options)
    _put_devices(host, options)
    _put_security(host, options)
    return host


def _capabilities(add: list[str], drop: list[str]) -> tuple[list[str], list[str]]:
    """Names in the kernel's form, each once."""

    def named(given: list[str]) -> set[str]:
        found = {text.strip().upper() for text in given}
        if "ALL" in found:
            return {"ALL"}
        return {name if name.startswith("CAP_") else f"CAP_{name}" for name in found}

    return sorted(named(add)), sorted(named(drop))


def _put_maps(host: Document, options: Options) -> None:
    if options.many("ulimit"):
        host["Ulimits"] = list({limit["Name"]: limit for limit in options.many("ulimit")}.values())
    if options.many("annotation"):
        host["Annotations"] = dict(options.many("annotation"))
    if options.many("add-host"):
        host["ExtraHosts"] = [_extra_host(text) for text in options.many("add-host")]
    if options.many("storage-opt"):
        host["StorageOpt"] = _storage_options(options.many("storage-opt"))
    if options.many("sysctl"):
        host["Sysctls"] = dict(_sysctl(*pair) for pair in options.many("sysctl"))
    logs = dict(text.partition("=")[::2] for text in options.many("log-opt"))
    driver = options.text("log-driver")
    if driver == "none" and logs:
        raise InvalidParameter(f"invalid logging opts for driver {driver}")
    if driver or logs:
        host["LogConfig"] = {"Type": driver, "Config": logs}


def _put_devices(host: Document, options: Options) -> None:
    for text in options.many("device-cgroup-rule"):
        try:
            device_flags.check_rule(text)
        except ValueError as err:
            raise invalid("--device-cgroup-rule", text, str(err)) from None
    mappings, cdi = device_flags.devices(options.many("device"))
    if mappings:
        host["Devices"] = mappings
    requests = options.many("gpus")
    if cdi:
        requests.append({"Driver": "cdi", "DeviceIDs": cdi})
    if requests:
        host["DeviceRequests"] = requests


def _check_modes(options: Options) -> None:
    for flag, name, allowed, joins in (
        ("pid", "PID", ("host",), True),
        ("uts", "UTS", ("host",), False),
        ("userns", "USER", ("host",), False),
        ("cgroupns", "CGROUP", ("host", "private"), False),
    ):
        text = options.text(flag)
        joined = text.startswith("container:") and len(text) > len("container:") and joins
        if flag == "userns" and text.partition(":")[0] in ("auto", "keep-id", "nomap"):
            continue  # the engine reads its options
        if text and text not in allowed and not joined:
            raise InvalidParameter(f"--{flag}: invalid {name} mode")
    swappiness = options.number("memory-swappiness")
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidParameter(
            f"invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        )
    if options.flag("rm") and options.text("restart", "no") not in ("no", ""):
        raise InvalidParameter("conflicting options: cannot specify both --restart and --rm")


def restart_policy(text: str) -> Document:
    """``on-failure:3`` as the API's RestartPolicy."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise InvalidParameter("invalid restart policy format: no policy provided before colon")
    if colon and not count.isdecimal():
        raise InvalidParameter(
            "invalid restart policy format: maximum retry count must be an integer"
        )
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _extra_host(text: str) -> str:
    """``NAME:IP``, also written ``NAME=IP``; ``[::1]`` loses its brackets."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name:
        raise invalid("--add-host", text, f'bad format for add-host: "{text}"')
    if address[:1] == "[" and address[-1:] == "]":
        address = address[1:-1]
    if address != "host-gateway" and not port_flags._is_address(address):
        raise invalid("--add-host", text, f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def _storage_options(given: list[str]) -> dict[str, str]:
    if any("=" not in text for text in given):
        raise InvalidParameter("invalid storage option")
    return dict(text.partition("=")[::2] for text in given)


def _sysctl(name: str, value: str) -> tuple[str, str]:
    if name not in _SYSCTLS and not name.startswith(("net.", "fs.mqueue.")):
        text = f"{name}={value}" if value else name
        raise invalid("--sysctl", text, f"sysctl '{text}' is not allowed")
    return name, value


def _put_security(host: Document, options: Options) -> None:
    found = []
    for text in options.many("security-opt"):
        name, equals, value = text.partition("=")
        if not equals and name != "no-new-privileges":
            name, equals, value = text.partition(":")
            if not equals:
                raise InvalidParameter(f'Invalid --security-opt: "{text}"')
        if name == "systempaths" and value == "unconfined":
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
            continue
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            text = f"seccomp={_profile(value)}"
        found.append(text)
    if found:
        host["SecurityOpt"] = found


def _profile(path: str) -> str:
    """A seccomp profile's JSON, compact."""
    try:
        with open(path, "rb") as file:
            return jsontext.dumps(jsontext.loads(file.read()))
    except OSError as err:
        reason = (err.strerror or "").lower()
        raise InvalidParameter(
            f"opening seccomp profile ({path}) failed: open {path}: {reason}"
        ) from None
    except SystemFailure as err:
        raise InvalidParameter(
            f"compacting json for seccomp profile ({path}) failed: {err}"
        ) from None
