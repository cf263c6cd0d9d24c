"""Answers of the groups Container, Exec and System against the published API description:
status, the fields it promises, and their types."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from enginekit import RunningEngine

BASE = "portside/base"

Shape = dict[str, Any]
TEXT, WHOLE, TRUTH, MAP, LIST = str, int, bool, dict, list


class Maybe:
    """A field that may be null."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


class Listed:
    """A list whose items have this shape."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


STATE: Shape = {
    "Status": TEXT, "Running": TRUTH, "Paused": TRUTH, "Restarting": TRUTH, "OOMKilled": TRUTH,
    "Dead": TRUTH, "Pid": WHOLE, "ExitCode": WHOLE, "Error": TEXT, "StartedAt": TEXT,
    "FinishedAt": TEXT,
}  # fmt: skip
HOST: Shape = {
    "Binds": Maybe(LIST), "ContainerIDFile": TEXT, "LogConfig": {"Type": TEXT, "Config": MAP},
    "NetworkMode": TEXT, "PortBindings": Maybe(MAP), "AutoRemove": TRUTH,
    "RestartPolicy": {"Name": TEXT, "MaximumRetryCount": WHOLE}, "VolumeDriver": TEXT,
    "VolumesFrom": Maybe(LIST), "ConsoleSize": LIST, "CapAdd": Maybe(LIST), "CapDrop": Maybe(LIST),
    "CgroupnsMode": TEXT, "Dns": Maybe(LIST), "DnsOptions": Maybe(LIST), "DnsSearch": Maybe(LIST),
    "ExtraHosts": Maybe(LIST), "GroupAdd": Maybe(LIST), "IpcMode": TEXT, "Cgroup": TEXT,
    "Links": Maybe(LIST), "OomScoreAdj": WHOLE, "PidMode": TEXT, "Privileged": TRUTH,
    "PublishAllPorts": TRUTH, "ReadonlyRootfs": TRUTH, "SecurityOpt": Maybe(LIST),
    "UTSMode": TEXT, "UsernsMode": TEXT, "ShmSize": WHOLE, "Runtime": TEXT, "Isolation": TEXT,
    "CpuShares": WHOLE, "Memory": WHOLE, "NanoCpus": WHOLE, "CgroupParent": TEXT,
    "BlkioWeight": WHOLE, "CpuPeriod": WHOLE, "CpuQuota": WHOLE, "CpuRealtimePeriod": WHOLE,
    "CpuRealtimeRuntime": WHOLE, "CpusetCpus": TEXT, "CpusetMems": TEXT, "Devices": Maybe(LIST),
    "DeviceCgroupRules": Maybe(LIST), "DeviceRequests": Maybe(LIST), "MemoryReservation": WHOLE,
    "MemorySwap": WHOLE, "MemorySwappiness": Maybe(WHOLE), "OomKillDisable": Maybe(TRUTH),
    "PidsLimit": Maybe(WHOLE), "Ulimits": Maybe(LIST), "MaskedPaths": Maybe(LIST),
    "ReadonlyPaths": Maybe(LIST),
}  # fmt: skip
CONFIG: Shape = {
    "Hostname": TEXT, "Domainname": TEXT, "User": TEXT, "AttachStdin": TRUTH,
    "AttachStdout": TRUTH, "AttachStderr": TRUTH, "Tty": TRUTH, "OpenStdin": TRUTH,
    "StdinOnce": TRUTH, "Env": LIST, "Cmd": Maybe(LIST), "Image": TEXT, "Volumes": Maybe(MAP),
    "WorkingDir": TEXT, "Entrypoint": Maybe(LIST), "Labels": MAP,
}  # fmt: skip
ENDPOINT: Shape = {
    "IPAMConfig": Maybe(MAP), "Links": Maybe(LIST), "Aliases": Maybe(LIST), "MacAddress": TEXT,
    "DriverOpts": Maybe(MAP), "GwPriority": WHOLE, "NetworkID": TEXT, "EndpointID": TEXT,
    "Gateway": TEXT, "IPAddress": TEXT, "IPPrefixLen": WHOLE, "IPv6Gateway": TEXT,
    "GlobalIPv6Address": TEXT, "GlobalIPv6PrefixLen": WHOLE, "DNSNames": Maybe(LIST),
}  # fmt: skip
MOUNT: Shape = {"Type": TEXT, "Source": TEXT, "Destination": TEXT, "Mode": TEXT, "RW": TRUTH,
                "Propagation": TEXT}  # fmt: skip
INSPECT: Shape = {
    "Id": TEXT, "Created": TEXT, "Path": TEXT, "Args": LIST, "State": STATE, "Image": TEXT,
    "ResolvConfPath": TEXT, "HostnamePath": TEXT, "HostsPath": TEXT, "LogPath": TEXT,
    "Name": TEXT, "RestartCount": WHOLE, "Driver": TEXT, "Platform": TEXT, "MountLabel": TEXT,
    "ProcessLabel": TEXT, "AppArmorProfile": TEXT, "ExecIDs": Maybe(LIST), "HostConfig": HOST,
    "GraphDriver": {"Name": TEXT, "Data": Maybe(MAP)}, "Mounts": Listed(MOUNT), "Config": CONFIG,
    "NetworkSettings": {"Bridge": TEXT, "SandboxID": TEXT, "SandboxKey": TEXT, "Ports": MAP,
                        "Networks": {"bridge": ENDPOINT}},
}  # fmt: skip
SUMMARY: Shape = {
    "Id": TEXT, "Names": Listed(TEXT), "Image": TEXT, "ImageID": TEXT, "Command": TEXT,
    "Created": WHOLE, "Ports": Listed({"PrivatePort": WHOLE, "Type": TEXT}), "Labels": MAP,
    "State": TEXT, "Status": TEXT, "HostConfig": {"NetworkMode": TEXT},
    "NetworkSettings": {"Networks": {"bridge": ENDPOINT}}, "Mounts": Listed(MOUNT),
}  # fmt: skip
CPU: Shape = {
    "cpu_usage": {"total_usage": WHOLE, "usage_in_kernelmode": WHOLE, "usage_in_usermode": WHOLE},
    "system_cpu_usage": WHOLE, "online_cpus": WHOLE,
    "throttling_data": {"periods": WHOLE, "throttled_periods": WHOLE, "throttled_time": WHOLE},
}  # fmt: skip
NETWORK: Shape = {
    f"{way}_{what}": WHOLE for way in ("rx", "tx")
    for what in ("bytes", "packets", "errors", "dropped")
}  # fmt: skip
STATS: Shape = {
    "id": TEXT, "name": TEXT, "read": TEXT, "preread": TEXT, "num_procs": WHOLE,
    "pids_stats": {"current": WHOLE}, "cpu_stats": CPU, "precpu_stats": CPU,
    "memory_stats": {"usage": WHOLE, "limit": WHOLE, "stats": MAP},
    "blkio_stats": {"io_service_bytes_recursive": Maybe(LIST)}, "networks": {"eth0": NETWORK},
}  # fmt: skip
EXEC: Shape = {
    "ID": TEXT, "Running": TRUTH, "ExitCode": Maybe(WHOLE), "OpenStdin": TRUTH,
    "OpenStderr": TRUTH, "OpenStdout": TRUTH, "CanRemove": TRUTH, "ContainerID": TEXT,
    "DetachKeys": TEXT, "Pid": WHOLE,
    "ProcessConfig": {"tty": TRUTH, "entrypoint": TEXT, "arguments": LIST, "privileged": TRUTH},
}  # fmt: skip
VERSION: Shape = {
    "Platform": {"Name": TEXT}, "Components": Listed({"Name": TEXT, "Version": TEXT}),
    "Version": TEXT, "ApiVersion": TEXT, "MinAPIVersion": TEXT, "GitCommit": TEXT,
    "GoVersion": TEXT, "Os": TEXT, "Arch": TEXT, "KernelVersion": TEXT, "BuildTime": TEXT,
}  # fmt: skip
INFO: Shape = {
    "ID": TEXT, "Containers": WHOLE, "ContainersRunning": WHOLE, "ContainersPaused": WHOLE,
    "ContainersStopped": WHOLE, "Images": WHOLE, "Driver": TEXT, "DriverStatus": LIST,
    "DockerRootDir": TEXT, "Plugins": {"Volume": LIST, "Network": LIST, "Log": LIST},
    "MemoryLimit": TRUTH, "SwapLimit": TRUTH, "CpuCfsPeriod": TRUTH, "CpuCfsQuota": TRUTH,
    "CPUShares": TRUTH, "CPUSet": TRUTH, "PidsLimit": TRUTH, "OomKillDisable": TRUTH,
    "IPv4Forwarding": TRUTH, "Debug": TRUTH, "NFd": WHOLE, "NGoroutines": WHOLE,
    "SystemTime": TEXT, "LoggingDriver": TEXT, "CgroupDriver": TEXT, "CgroupVersion": TEXT,
    "NEventsListener": WHOLE, "KernelVersion": TEXT, "OperatingSystem": TEXT, "OSVersion": TEXT,
    "OSType": TEXT, "Architecture": TEXT, "NCPU": WHOLE, "MemTotal": WHOLE,
    "IndexServerAddress": TEXT, "RegistryConfig": MAP, "HttpProxy": TEXT, "HttpsProxy": TEXT,
    "NoProxy": TEXT, "Name": TEXT, "Labels": Maybe(LIST), "ExperimentalBuild": TRUTH,
    "ServerVersion": TEXT, "Runtimes": MAP, "DefaultRuntime": TEXT,
    "Swarm": {"LocalNodeState": TEXT, "ControlAvailable": TRUTH}, "LiveRestoreEnabled": TRUTH,
    "Isolation": TEXT, "InitBinary": TEXT, "SecurityOptions": LIST, "Warnings": Maybe(LIST),
}  # fmt: skip
USAGE: Shape = {
    "LayersSize": WHOLE, "Images": Listed({"Id": TEXT, "Size": WHOLE, "Containers": WHOLE}),
    "Containers": Listed({"Id": TEXT, "SizeRootFs": WHOLE}), "Volumes": Maybe(LIST),
    "BuildCache": Maybe(LIST),
}  # fmt: skip


def check(value: Any, shape: Any, where: str = "") -> list[str]:
    """What does not fit, each with its place."""
    if isinstance(shape, Maybe):
        return [] if value is None else check(value, shape.kind, where)
    if isinstance(shape, Listed):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        found = [check(item, shape.kind, f"{where}[{n}]") for n, item in enumerate(value)]
        return [each for one in found for each in one]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no object"]
        wrong = [f"{where}.{key} is missing" for key in shape if key not in value]
        for key, kind in shape.items():
            if key in value:
                wrong += check(value[key], kind, f"{where}.{key}")
        return wrong
    if shape is int and isinstance(value, bool):
        return [f"{where}: {value!r} is no number"]
    return [] if isinstance(value, shape) else [f"{where}: {value!r} is no {shape.__name__}"]


@pytest.fixture(scope="module")
def objects(engine: RunningEngine) -> Iterator[dict[str, str]]:
    """What the table's paths name: containers and an exec."""
    status, _, body = engine.request("POST", f"/images/create?fromImage={BASE}&tag=latest")
    assert status == 200, body
    host = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}, "Binds": ["/tmp:/x:ro"]}
    asked = {"Image": BASE, "Cmd": ["sleep", "1000"], "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}}, "HostConfig": host}  # fmt: skip
    up = engine.json("POST", "/containers/create?name=shape-up", asked, 201)["Id"]
    engine.json("POST", f"/containers/{up}/start", status=204)
    idle = engine.json("POST", "/containers/create?name=shape-idle", asked, 201)["Id"]
    command = {"Cmd": ["true"], "AttachStdout": True}
    made = engine.json("POST", f"/containers/{up}/exec", command, 201)["Id"]
    yield {"up": up, "idle": idle, "exec": made}
    for name in (up, idle):
        engine.request("DELETE", f"/containers/{name}?force=1&v=1")


READS: list[tuple[str, Any]] = [
    ("/containers/json?all=1", Listed(SUMMARY)),
    ("/containers/json?all=1&size=1", Listed({**SUMMARY, "SizeRootFs": WHOLE})),
    ("/containers/{up}/json", INSPECT),
    ("/containers/{idle}/json", INSPECT),
    ("/containers/{up}/json?size=1", {**INSPECT, "SizeRw": WHOLE, "SizeRootFs": WHOLE}),
    ("/containers/{up}/top", {"Titles": Listed(TEXT), "Processes": Listed(Listed(TEXT))}),
    ("/containers/{up}/stats?stream=0", STATS),
    ("/containers/{up}/stats?stream=0&one-shot=1", {**STATS, "precpu_stats": MAP}),
    ("/containers/{up}/changes", Maybe(Listed({"Path": TEXT, "Kind": WHOLE}))),
    ("/exec/{exec}/json", EXEC),
    ("/version", VERSION),
    ("/info", INFO),
    ("/system/df", USAGE),
]


@pytest.mark.parametrize(("path", "shape"), READS, ids=[path for path, _ in READS])
def test_reads(engine: RunningEngine, objects: dict[str, str], path: str, shape: Any) -> None:
    status, headers, body = engine.request("GET", f"/v1.51{path.format(**objects)}")
    assert status == 200, body
    assert headers["content-type"].startswith("application/json")
    assert headers["api-version"] == "1.55"
    assert check(json.loads(body), shape) == []


WRITES: list[tuple[str, str, Any, int, Any]] = [
    ("POST", "/containers/create", {"Image": BASE}, 201, {"Id": TEXT, "Warnings": LIST}),
    ("POST", "/containers/{up}/start", None, 304, None),
    ("POST", "/containers/{idle}/stop", None, 304, None),
    ("POST", "/containers/{up}/pause", None, 204, None),
    ("POST", "/containers/{up}/unpause", None, 204, None),
    ("POST", "/containers/{up}/update", {"Memory": 1 << 26, "MemorySwap": -1}, 200,
     {"Warnings": Maybe(LIST)}),
    ("POST", "/containers/{up}/resize?h=10&w=20", None, 200, None),
    ("POST", "/containers/{up}/exec", {"Cmd": ["true"]}, 201, {"Id": TEXT}),
    ("POST", "/containers/{idle}/wait", None, 200, {"StatusCode": WHOLE}),
    ("POST", "/containers/{up}/kill?signal=0URG", None, 400, {"message": TEXT}),
    ("POST", "/commit?container={up}&repo=shape&tag=1", {}, 201, {"Id": TEXT}),
    ("DELETE", "/images/shape:1", None, 200, LIST),
    ("POST", "/containers/prune?filters=%7B%22label%22%3A%5B%22none%22%5D%7D", None, 200,
     {"ContainersDeleted": Maybe(LIST), "SpaceReclaimed": WHOLE}),
    ("HEAD", "/_ping", None, 200, None),
    ("POST", "/auth", {"username": "", "password": ""}, 500, {"message": TEXT}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "shape"), WRITES, ids=[f"{w[0]} {w[1]}" for w in WRITES]
)
def test_writes(
    engine: RunningEngine, objects: dict[str, str], method: str, path: str, body: Any, status: int,
    shape: Any,
) -> None:  # fmt: skip
    got, _, data = engine.request(method, f"/v1.51{path.format(**objects)}", body)
    if path == "/auth":
        assert got >= 400 and check(json.loads(data), shape) == []
        return
    assert got == status, data
    if shape is None:
        assert data.strip() == b""
    else:
        assert check(json.loads(data), shape) == []
    if path == "/containers/create":
        engine.json("DELETE", f"/containers/{json.loads(data)['Id']}?v=1", status=204)


REFUSALS: list[tuple[str, str, Any, int]] = [
    ("GET", "/containers/none-such/json", None, 404),
    ("POST", "/containers/none-such/start", None, 404),
    ("POST", "/containers/none-such/exec", {"Cmd": ["true"]}, 404),
    ("GET", "/exec/none-such/json", None, 404),
    ("POST", "/exec/none-such/start", {}, 404),
    ("GET", "/containers/none-such/logs?stdout=1", None, 404),
    ("GET", "/containers/{up}/logs", None, 400),
    ("GET", "/containers/none-such/stats", None, 404),
    ("GET", "/containers/{idle}/top", None, 409),
    ("POST", "/containers/{idle}/exec", {"Cmd": ["true"]}, 409),
    ("POST", "/containers/{idle}/kill", None, 409),
    ("POST", "/containers/{idle}/pause", None, 409),
    ("POST", "/containers/{up}/unpause", None, 409),
    ("DELETE", "/containers/{up}", None, 409),
    ("POST", "/containers/{up}/rename?name=shape-idle", None, 409),
    ("POST", "/containers/{up}/rename?name=%21", None, 400),
    ("POST", "/containers/{up}/wait?condition=never", None, 400),
    ("POST", "/containers/{up}/resize?h=a&w=b", None, 400),
    ("POST", "/containers/create", None, 400),
    ("POST", "/containers/create", {"Image": "none/such"}, 404),
    ("POST", "/containers/create?name=shape-up", {"Image": BASE}, 409),
    ("GET", "/containers/json?filters=%7B%22none%22%3A%5B%22x%22%5D%7D", None, 400),
    ("GET", "/containers/{up}/archive", None, 400),
    ("GET", "/containers/{up}/archive?path=/none/such", None, 404),
    ("PUT", "/containers/{up}/archive?path=/none/such", None, 404),
    ("GET", "/swarm", None, 503),
    ("GET", "/nodes", None, 503),
    ("GET", "/services", None, 503),
    ("GET", "/tasks", None, 503),
    ("GET", "/secrets", None, 503),
    ("GET", "/configs", None, 503),
    ("GET", "/none-such", None, 404),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"), REFUSALS, ids=[f"{r[0]} {r[1]}" for r in REFUSALS]
)
def test_refusals(
    engine: RunningEngine, objects: dict[str, str], method: str, path: str, body: Any, status: int
) -> None:
    got, _, data = engine.request(method, f"/v1.51{path.format(**objects)}", body)
    assert got == status, data
    assert check(json.loads(data), {"message": TEXT}) == []
    assert json.loads(data)["message"].strip()


def test_an_event_has_its_fields(engine: RunningEngine, objects: dict[str, str]) -> None:
    _, _, data = engine.request("GET", f"/v1.51/events?since=1&until={time.time()}")
    first = json.loads(data.splitlines()[0])
    wanted = {"Type": TEXT, "Action": TEXT, "Actor": {"ID": TEXT, "Attributes": MAP},
              "scope": TEXT, "time": WHOLE, "timeNano": WHOLE}  # fmt: skip
    assert check(first, wanted) == []
