"""From a project's values to the engine's requests: containers, networks, volumes.

The bodies, labels and names are those that ``docker compose`` sends, so that both programs see,
change and remove one another's projects.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable

from portside.compose.compose_errors import ComposeError
from portside.compose.config_output import go_json, network_hash, service_hash, volume_hash
from portside.compose.project import Project, Values
from portside.model.light_dataclass import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


VERSION = "2.40.3"
"""The version of Docker Compose whose behaviour and labels are followed."""

PREFIX = "com.docker.compose."
PROJECT = PREFIX + "project"
SERVICE = PREFIX + "service"
NUMBER = PREFIX + "container-number"
ONEOFF = PREFIX + "oneoff"
SLUG = PREFIX + "slug"
HASH = PREFIX + "config-hash"
IMAGE = PREFIX + "image"
REPLACE = PREFIX + "replace"
WORKING_DIR = PREFIX + "project.working_dir"
CONFIG_FILES = PREFIX + "project.config_files"
ENVIRONMENT_FILE = PREFIX + "project.environment_file"
DEPENDS_ON = PREFIX + "depends_on"
NETWORK = PREFIX + "network"
VOLUME = PREFIX + "volume"
COMPOSE_VERSION = PREFIX + "version"

_IFNAME = "com.docker.network.endpoint.ifname"
_POLICIES = {"none": "no", "any": "always"}


def image_of(project: Project, name: str, service: Values) -> str:
    """The image of a service: the one it names, or the one that is built for it."""
    return service.get("image") or f"{project.name}{project.separator}{name}"


def container_name(project: Project, name: str, service: Values, number: int) -> str:
    """The name of a service's container by number."""
    given = service.get("container_name")
    return given or project.separator.join((project.name, name, str(number)))


def scale_of(service: Values) -> int:
    """How many containers a service has."""
    if service.get("scale") is not None:
        return int(service["scale"])
    replicas = (service.get("deploy") or {}).get("replicas")
    return 1 if replicas is None else int(replicas)


@dataclass
class ContainerRequest:
    """The inputs for creating one container."""

    project: Project
    service_name: str
    service: Values
    number: int
    image_digest: str = ""
    inherited: list[Values] = field(default_factory=list)
    """Mounts of the container that this one replaces (Docker's ``Mounts``)."""
    image_volumes: frozenset[str] = frozenset()
    """Where the image declares volumes."""
    links: list[str] = field(default_factory=list)
    """``NAME:ALIAS`` of linked containers."""
    labels: dict[str, str] = field(default_factory=dict)
    one_off: bool = False
    use_aliases: bool = True
    attach_stdin: bool = False
    auto_remove: bool = False
    proxies: dict[str, str] = field(default_factory=dict)
    resolve: Callable[[str], str] = lambda mode: mode
    """Turns ``service:NAME`` of a namespace or volume into ``container:ID``."""
    warn: Callable[[str], None] = lambda text: None

    # -- the whole --------------------------------------------------------------------------

    def body(self) -> Values:
        """The body of ``POST /containers/create``. Raises ComposeError."""
        service = self.service
        binds, mounts = self._mounts()
        mode, endpoints = self._networks()
        body: Values = {
            "Hostname": service.get("hostname", ""),
            "Domainname": service.get("domainname", ""),
            "User": service.get("user", ""),
            "AttachStdin": self.attach_stdin,
            "AttachStdout": True,
            "AttachStderr": True,
            "ExposedPorts": self._exposed(),
            "Tty": service.get("tty", False),
            "OpenStdin": service.get("stdin_open", False),
            "StdinOnce": self.attach_stdin and service.get("stdin_open", False),
            "Env": self._environment(),
            "Cmd": service.get("command"),
            "Image": image_of(self.project, self.service_name, service),
            "WorkingDir": service.get("working_dir", ""),
            "Entrypoint": service.get("entrypoint"),
            "Labels": self._labels(),
            "HostConfig": self._host(binds, mounts, mode),
        }
        if service.get("network_mode") == "disabled":
            body["NetworkDisabled"] = True
        if service.get("stop_signal"):
            body["StopSignal"] = service["stop_signal"]
        if service.get("stop_grace_period") is not None:
            body["StopTimeout"] = service["stop_grace_period"] // 10**9
        health = healthcheck(service.get("healthcheck"))
        if health is not None:
            body["Healthcheck"] = health
        if endpoints:
            body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
        return body

    def _environment(self) -> list[str]:
        given = {**self.proxies, **(self.service.get("environment") or {})}
        return [name if value is None else f"{name}={value}" for name, value in given.items()]

    def _labels(self) -> dict[str, str]:
        project, service = self.project, self.service
        depends = ",".join(
            f"{name}:{how.get('condition', 'service_started')}:"
            f"{'true' if how.get('restart') else 'false'}"
            for name, how in (service.get("depends_on") or {}).items()
            if name in project.services or how.get("required", True)
        )
        found = {
            **(service.get("labels") or {}),
            PROJECT: project.name,
            SERVICE: self.service_name,
            COMPOSE_VERSION: VERSION,
            WORKING_DIR: project.working_dir,
            CONFIG_FILES: ",".join(project.files),
            ONEOFF: "True" if self.one_off else "False",
            HASH: self.labels.get(HASH) or service_hash(service),
            DEPENDS_ON: depends,
            IMAGE: self.image_digest,
        }
        if project.env_files:
            found[ENVIRONMENT_FILE] = ",".join(project.env_files)
        if self.number > 0 and not self.one_off:
            found[NUMBER] = str(self.number)
        found.update(self.labels)
        return found

    # -- ports ------------------------------------------------------------------------------

    def _exposed(self) -> dict[str, Values]:
        """``expose`` as it is written, and the targets of ``ports``."""
        found: dict[str, Values] = {text: {} for text in self.service.get("expose") or ()}
        for port in self.service.get("ports") or ():
            found[f"{port['target']}/{port.get('protocol', 'tcp')}"] = {}
        return found

    def _bindings(self) -> dict[str, list[Values]]:
        found: dict[str, list[Values]] = {}
        for port in self.service.get("ports") or ():
            key = f"{port['target']}/{port.get('protocol', 'tcp')}"
            found.setdefault(key, []).append(
                {"HostIp": port.get("host_ip", ""), "HostPort": port.get("published", "")}
            )
        return found

    # -- networks ---------------------------------------------------------------------------

    def _networks(self) -> tuple[str, dict[str, Values]]:
        """The network mode and the endpoints by network name."""
        mode = self.service.get("network_mode")
        if mode:
            return self.resolve(mode), {}
        if not self.project.networks:
            return "none", {}
        networks = self.service.get("networks") or {"default": None}
        order = sorted(
            networks, key=lambda key: (-((networks[key] or {}).get("priority") or 0), key)
        )
        endpoints = {}
        for index, key in enumerate(order):
            name = self.project.networks[key]["name"]
            endpoints[name] = self._endpoint(key, networks[key], primary=index == 0)
        return self.project.networks[order[0]]["name"], endpoints

    def _endpoint(self, key: str, given: Values | None, primary: bool) -> Values:
        config = given or {}
        aliases = [container_name(self.project, self.service_name, self.service, self.number)]
        if self.use_aliases:
            aliases += [self.service_name, *(config.get("aliases") or ())]
        endpoint: Values = {"Aliases": aliases, "Links": self.links or None}
        addresses = {
            "IPv4Address": config.get("ipv4_address"),
            "IPv6Address": config.get("ipv6_address"),
            "LinkLocalIPs": config.get("link_local_ips"),
        }
        if given is not None:
            endpoint["IPAMConfig"] = {name: item for name, item in addresses.items() if item}
        mac = config.get("mac_address") or (self.service.get("mac_address") if primary else "")
        own = self.service.get("mac_address")
        if primary and own and config.get("mac_address") not in (None, "", own):
            raise ComposeError(
                f"the service-level mac_address should have the same value as network {key}"
            )
        if mac:
            endpoint["MacAddress"] = mac
        options = dict(config.get("driver_opts") or {})
        if config.get("interface_name"):
            options[_IFNAME] = config["interface_name"]
        if options:
            endpoint["DriverOpts"] = options
        if config.get("gw_priority"):
            endpoint["GwPriority"] = config["gw_priority"]
        return endpoint

    # -- mounts -----------------------------------------------------------------------------

    def _mounts(self) -> tuple[list[str], list[Values]]:
        """Docker's ``Binds`` for what they can say, ``Mounts`` for the rest."""
        by_target: dict[str, Values] = {}
        volumes = list(self.service.get("volumes") or ())
        for mount in self.inherited:
            if mount["Type"] == "tmpfs":
                continue
            target = mount["Destination"]
            source = mount.get("Name") if mount["Type"] == "volume" else mount.get("Source")
            same = [item for item in volumes if item.get("target") == target]
            anonymous = [item for item in same if not item.get("source")]
            if anonymous or (target in self.image_volumes and not same):
                by_target[target] = {
                    "Type": mount["Type"], "Source": source, "Target": target,
                    "ReadOnly": not mount.get("RW", True),
                }  # fmt: skip
                volumes = [item for item in volumes if item not in anonymous]
        for volume in volumes:
            by_target[volume.get("target") or ""] = self._mount(volume)
        for mount in (*self._secrets(), *self._configs()):
            by_target.setdefault(mount["Target"], mount)
        binds, mounts = [], []
        for target, mount in by_target.items():
            text = self._bind_text(target, mount)
            if text is None:
                mounts.append(mount)
            else:
                binds.append(text)
        return binds, mounts

    def _bind_text(self, target: str, mount: Values) -> str | None:
        """``SOURCE:TARGET:OPTIONS`` where that says the same as the mount."""
        volume = next(
            (item for item in self.service.get("volumes") or () if item.get("target") == target),
            None,
        )
        if volume is None or mount["Type"] != volume["type"] or not mount.get("Source"):
            return None
        bind, named = volume.get("bind"), volume.get("volume") or {}
        if volume["type"] == "bind":
            if bind is not None and (
                not bind.get("create_host_path") or bind.get("propagation") or bind.get("recursive")
            ):
                return None
        elif volume["type"] == "volume":
            if named.get("labels") or named.get("subpath") or named.get("nocopy"):
                return None
            if mount["Source"] not in {item["name"] for item in self.project.volumes.values()}:
                return None
        else:
            return None
        options = ["ro" if volume.get("read_only") else "rw"]
        if bind is not None and bind.get("selinux"):
            options.append(bind["selinux"])
        return f"{mount['Source']}:{target}:{','.join(options)}"

    def _mount(self, volume: Values) -> Values:
        kind, source = volume["type"], volume.get("source", "")
        if kind == "bind" and not source.startswith("/"):
            source = os.path.abspath(source)
        elif kind == "volume" and source in self.project.volumes:
            source = self.project.volumes[source]["name"]
        mount: Values = {"Type": kind, "Source": source, "Target": volume.get("target", "")}
        if volume.get("read_only"):
            mount["ReadOnly"] = True
        if volume.get("consistency"):
            mount["Consistency"] = volume["consistency"]
        for key in ("bind", "volume", "tmpfs", "image"):
            if key in volume and key != kind:
                self.warn(f"mount of type `{kind}` should not define `{key}` option")
        options = volume.get(kind)
        if options is None:
            return mount
        if kind == "bind":
            mount["BindOptions"] = _bind_options(options)
        elif kind == "volume":
            mount["VolumeOptions"] = {
                "NoCopy": options.get("nocopy", False), "Subpath": options.get("subpath", ""),
                "Labels": options.get("labels"),
            }  # fmt: skip
        elif kind == "tmpfs":
            mount["TmpfsOptions"] = {
                "SizeBytes": options.get("size", 0), "Mode": options.get("mode", 0)
            }  # fmt: skip
        elif kind == "image":
            mount["ImageOptions"] = {"Subpath": options.get("subpath", "")}
        return mount

    def _secrets(self) -> list[Values]:
        return self._file_mounts("secrets", "/run/secrets/")

    def _configs(self) -> list[Values]:
        return self._file_mounts("configs", "/")

    def _file_mounts(self, group: str, base: str) -> list[Values]:
        found = []
        for item, defined, target in self.file_objects(group, base):
            if defined.get("environment") or "content" in defined:
                continue  # copied into the container before it starts
            if item.get("uid") or item.get("gid") or item.get("mode") is not None:
                self.warn(f"{group} `uid`, `gid` and `mode` are not supported, "
                          "they will be ignored")  # fmt: skip
            file = defined.get("file", "")
            if group == "secrets" and not os.path.exists(file):
                self.warn(f"secret file {defined['name']} does not exist")
            mount: Values = {"Type": "bind", "Source": file, "Target": target, "ReadOnly": True}
            if group == "secrets":
                mount["BindOptions"] = {}
            found.append(mount)
        return found

    def file_objects(self, group: str, base: str) -> list[tuple[Values, Values, str]]:
        """For each secret or config: the reference, its definition, and the place in the
        container. Raises ComposeError for what one engine cannot provide."""
        found = []
        one = group[:-1]
        for item in self.service.get(group) or ():
            defined = getattr(self.project, group)[item["source"]]
            if defined.get("external"):
                raise ComposeError(f"unsupported external {one} {defined['name']}")
            for key in ("driver", "template_driver"):
                if defined.get(key):
                    raise ComposeError(f"Docker Compose does not support {group}.*.{key}")
            target = item.get("target") or item["source"]
            if not target.startswith("/"):
                target = posixpath.join(base, target)
            found.append((item, defined, target))
        return found

    # -- the host's side --------------------------------------------------------------------

    def _host(self, binds: list[str], mounts: list[Values], mode: str) -> Values:
        service = self.service
        options, unconfined = security_options(self.project, service.get("security_opt") or [])
        tmpfs = dict(text.partition(":")[::2] for text in service.get("tmpfs") or ())
        hosts = service.get("extra_hosts") or {}
        logging = service.get("logging") or {}
        host: Values = {
            "AutoRemove": self.auto_remove,
            "Annotations": service.get("annotations"),
            "Binds": binds or None,
            "Mounts": mounts or None,
            "CapAdd": capabilities(service.get("cap_add")),
            "CapDrop": capabilities(service.get("cap_drop")),
            "NetworkMode": mode,
            "IpcMode": self.resolve(service.get("ipc", "")),
            "CgroupnsMode": service.get("cgroup", ""),
            "ReadonlyRootfs": service.get("read_only", False),
            "RestartPolicy": restart_policy(service),
            "ShmSize": service.get("shm_size", 0),
            "Sysctls": service.get("sysctls"),
            "PortBindings": self._bindings(),
            "VolumesFrom": [
                self.resolve(text) for text in service.get("volumes_from") or ()
            ] or None,
            "Dns": service.get("dns"),
            "DnsSearch": service.get("dns_search"),
            "DnsOptions": service.get("dns_opt"),
            "ExtraHosts": sorted(
                f"{name}:{text}" for name, texts in hosts.items() for text in texts
            ),
            "SecurityOpt": options or None,
            "StorageOpt": service.get("storage_opt"),
            "UsernsMode": service.get("userns_mode", ""),
            "UTSMode": self.resolve(service.get("uts", "")),
            "Privileged": service.get("privileged", False),
            "PidMode": self.resolve(service.get("pid", "")),
            "Tmpfs": tmpfs or None,
            "Isolation": service.get("isolation", ""),
            "Runtime": service.get("runtime", ""),
            "LogConfig": {
                "Type": logging.get("driver", ""), "Config": logging.get("options")
            },
            "GroupAdd": service.get("group_add"),
            "Links": self.links or None,
            "OomScoreAdj": service.get("oom_score_adj", 0),
            **resources(service),
        }  # fmt: skip
        if "init" in service:
            host["Init"] = service["init"]
        if unconfined:
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
        return host


def _bind_options(options: Values) -> Values:
    found: Values = {"CreateMountpoint": bool(options.get("create_host_path"))}
    if options.get("propagation"):
        found["Propagation"] = options["propagation"]
    recursive = {
        "disabled": "NonRecursive",
        "writable": "ReadOnlyNonRecursive",
        "readonly": "ReadOnlyForceRecursive",
    }.get(options.get("recursive", ""))
    if recursive:
        found[recursive] = True
    return found


def healthcheck(config: Values | None) -> Values | None:
    """Docker's ``Healthcheck``. Raises ComposeError."""
    if config is None:
        return None
    test = config.get("test") or []
    if config.get("disable"):
        test = ["NONE"]
    found: Values = {"Test": test or None}
    for key, name in (
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start_period", "StartPeriod"),
        ("start_interval", "StartInterval"),
    ):
        if config.get(key) is not None:
            found[name] = config[key]
    if config.get("start_interval") is not None and config.get("start_period") is None:
        raise ComposeError("healthcheck.start_interval requires healthcheck.start_period to be set")
    if config.get("retries") is not None:
        found["Retries"] = config["retries"]
    return found


def restart_policy(service: Values) -> Values:
    """Docker's ``RestartPolicy``: ``deploy.restart_policy`` wins over ``restart``."""
    deployed = (service.get("deploy") or {}).get("restart_policy")
    if deployed is not None:
        name = deployed.get("condition", "")
        attempts = deployed.get("max_attempts") or 0
    else:
        name, _, count = service.get("restart", "").partition(":")
        attempts = int(count) if count.isdecimal() else 0
    return {"Name": _POLICIES.get(name, name), "MaximumRetryCount": attempts}


def security_options(project: Project, given: list[str]) -> tuple[list[str], bool]:
    """``security_opt`` in the engine's form, and whether masked paths are visible.

    Raises ComposeError.
    """
    found, unconfined = [], False
    for text in given:
        if text == "systempaths=unconfined":
            unconfined = True
            continue
        name, separator, value = text.partition("=")
        if not separator and text != "no-new-privileges":
            name, separator, value = text.partition(":")
            if not separator:
                raise ComposeError(f'invalid security-opt: "{text}"')
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            found.append(f"seccomp={_seccomp_profile(project, value)}")
        else:
            found.append(text)
    return found, unconfined


def _seccomp_profile(project: Project, path: str) -> str:
    import json

    try:
        with open(os.path.join(project.working_dir, path)) as file:
            return go_json(json.load(file))
    except OSError as err:
        raise ComposeError(f"opening seccomp profile ({path}) failed: {err.strerror}") from None
    except ValueError as err:
        raise ComposeError(f"compacting json for seccomp profile ({path}) failed: {err}") from None


def resources(service: Values) -> Values:
    """Limits and devices: the service's own, over which ``deploy.resources`` win."""
    limits = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    reserved = ((service.get("deploy") or {}).get("resources") or {}).get("reservations") or {}
    cpus = limits.get("cpus") or service.get("cpus") or 0
    found: Values = {
        "CgroupParent": service.get("cgroup_parent", ""),
        "Memory": limits.get("memory") or service.get("mem_limit", 0),
        "MemorySwap": service.get("memswap_limit", 0),
        "MemoryReservation": reserved.get("memory") or service.get("mem_reservation", 0),
        "OomKillDisable": service.get("oom_kill_disable", False),
        "CpuCount": service.get("cpu_count", 0),
        "CpuPeriod": service.get("cpu_period", 0),
        "CpuQuota": service.get("cpu_quota", 0),
        "CpuRealtimePeriod": service.get("cpu_rt_period", 0),
        "CpuRealtimeRuntime": service.get("cpu_rt_runtime", 0),
        "CpuShares": service.get("cpu_shares", 0),
        "NanoCpus": round(cpus * 10**9),
        "CpuPercent": round(service.get("cpu_percent", 0) * 100),
        "CpusetCpus": service.get("cpuset", ""),
        "DeviceCgroupRules": service.get("device_cgroup_rules"),
        "Ulimits": _ulimits(service.get("ulimits") or {}) or None,
        **_devices(service, reserved),
        **_blkio(service.get("blkio_config") or {}),
    }
    if service.get("mem_swappiness"):
        found["MemorySwappiness"] = service["mem_swappiness"]
    pids = limits.get("pids") or service.get("pids_limit")
    if pids:
        found["PidsLimit"] = pids
    return found


def capabilities(names: list[str] | None) -> list[str] | None:
    """Capabilities as Docker's clients name them: sorted, with their prefix."""
    if not names:
        return None
    found = {name.upper() for name in names}
    if "ALL" in found:
        return ["ALL"]
    return sorted(name if name.startswith("CAP_") else f"CAP_{name}" for name in found)


def _ulimits(given: dict[str, Any]) -> list[Values]:
    return [
        {"Name": name, "Soft": item["soft"], "Hard": item["hard"]}
        if isinstance(item, dict)
        else {"Name": name, "Soft": item, "Hard": item}
        for name, item in given.items()
    ]


def _devices(service: Values, reserved: Values) -> Values:
    devices, requests, named = [], [], []
    for item in service.get("devices") or ():
        source, target = item["source"], item.get("target") or item["source"]
        if source == target and "=" in source and not source.startswith("/"):
            named.append(source)  # vendor.com/class=name: a device of the CDI
            continue
        devices.append(
            {
                "PathOnHost": source,
                "PathInContainer": target,
                "CgroupPermissions": item.get("permissions", "rwm"),
            }
        )
    for item in reserved.get("devices") or ():
        requests.append(_device_request(item, list(item.get("capabilities") or ())))
    if named:
        requests.append({"Driver": "cdi", "DeviceIDs": named})
    for item in service.get("gpus") or ():
        requests.append(_device_request(item, [*(item.get("capabilities") or ()), "gpu"]))
    return {"Devices": devices or None, "DeviceRequests": requests or None}


def _device_request(item: Values, capabilities: list[str]) -> Values:
    return {
        "Driver": item.get("driver", ""),
        "Count": item.get("count", 0),
        "DeviceIDs": item.get("device_ids"),
        "Capabilities": [capabilities],
        "Options": item.get("options"),
    }


def _blkio(config: Values) -> Values:
    found: Values = {}
    if config.get("weight"):
        found["BlkioWeight"] = config["weight"]
    for key, name, value in (
        ("weight_device", "BlkioWeightDevice", "weight"),
        ("device_read_bps", "BlkioDeviceReadBps", "rate"),
        ("device_read_iops", "BlkioDeviceReadIOps", "rate"),
        ("device_write_bps", "BlkioDeviceWriteBps", "rate"),
        ("device_write_iops", "BlkioDeviceWriteIOps", "rate"),
    ):
        if config.get(key):
            found[name] = [
                {"Path": item.get("path", ""), value.capitalize(): item.get(value, 0)}
                for item in config[key]
            ]
    return found


# -- networks and volumes -------------------------------------------------------------------------


def network_body(project: Project, key: str) -> Values:
    """The body of ``POST /networks/create``."""
    network = project.networks[key]
    ipam = network.get("ipam") or {}
    body: Values = {
        "Name": network["name"],
        "Driver": network.get("driver", ""),
        "Options": network.get("driver_opts"),
        "Internal": network.get("internal", False),
        "Attachable": network.get("attachable", False),
        "Labels": {
            **(network.get("labels") or {}),
            NETWORK: key,
            PROJECT: project.name,
            COMPOSE_VERSION: VERSION,
            HASH: network_hash(network),
        },
    }
    for name, field_name in (("enable_ipv4", "EnableIPv4"), ("enable_ipv6", "EnableIPv6")):
        if network.get(name) is not None:
            body[field_name] = network[name]
    if any(ipam.get(name) for name in ("driver", "config", "options")):
        body["IPAM"] = {
            "Driver": ipam.get("driver", ""),
            "Options": ipam.get("options"),
            "Config": [
                {
                    name: pool[own]
                    for own, name in (
                        ("subnet", "Subnet"), ("ip_range", "IPRange"), ("gateway", "Gateway"),
                        ("aux_addresses", "AuxiliaryAddresses"),
                    )
                    if pool.get(own)
                }
                for pool in ipam.get("config") or ()
            ],
        }  # fmt: skip
    return body


def volume_body(project: Project, key: str) -> Values:
    """The body of ``POST /volumes/create``."""
    volume = project.volumes[key]
    return {
        "Name": volume["name"],
        "Driver": volume.get("driver", ""),
        "DriverOpts": volume.get("driver_opts"),
        "Labels": {
            **(volume.get("labels") or {}),
            VOLUME: key,
            PROJECT: project.name,
            COMPOSE_VERSION: VERSION,
            HASH: volume_hash(volume),
        },
    }
