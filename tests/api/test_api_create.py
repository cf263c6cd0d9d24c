"""What create answers to unusual requests, and how inspect shows the result: as Docker does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from enginekit import RunningEngine

BASE = "portside/base"


@pytest.fixture
def made(engine: RunningEngine, base: str) -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        engine.request("DELETE", f"/containers/{name}?force=1&v=1")


def create(
    engine: RunningEngine, made: list[str], query: str = "", version: str = "", **config: Any
) -> tuple[int, str]:
    """Status, and the container's ID or the error."""
    body = {"Image": BASE, "Cmd": ["sleep", "1000"], **config}
    status, _, data = engine.request("POST", f"{version}/containers/create{query}", body)
    answer = json.loads(data)
    if status == 201:
        made.append(answer["Id"])
        return status, answer["Id"]
    return status, answer["message"]


def mount(**fields: Any) -> dict[str, Any]:
    return {"Mounts": [{"Target": "/x", **fields}]}


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({"Binds": ["/tmp:/x:nocopy"]}, "field VolumeOptions must not be specified"),
        ({"Binds": ["vol:/x:rslave"]}, "field BindOptions must not be specified"),
        (
            mount(Type="bind", Source="/tmp", VolumeOptions={"NoCopy": True}),
            'VolumeOptions must not be specified on mount type "bind"',
        ),
        (
            mount(Type="volume", Source="vol", BindOptions={}),
            'BindOptions must not be specified on mount type "volume"',
        ),
        (
            mount(Type="tmpfs", BindOptions={}),
            'BindOptions must not be specified on mount type "tmpfs"',
        ),
        (
            {"Mounts": [{"Type": "what", "Target": ""}]},
            'invalid mount config for type "what": field Target must not be empty',
        ),
        ({"Tmpfs": {"/": ""}}, "invalid specification: destination can't be '/'"),
        ({"Tmpfs": {"t": ""}}, "invalid mount path: 't' mount path must be absolute"),
        ({"VolumesFrom": [""]}, "volumes-from specification cannot be an empty string"),
        ({"Links": ["a:b:c"]}, "bad format for links: a:b:c"),
        ({"Links": [""]}, "empty string specified for links"),
        (
            {"NetworkMode": "container:x", "Links": ["a:b"]},
            "conflicting options: container type network can't be used with links",
        ),
        ({"PortBindings": {"80/tcp": [{"HostPort": "aa"}]}}, 'invalid port specification: "aa"'),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": -1}]}, "invalid JSON: "),
        ({"Isolation": "hyperv"}, "linux only supports 'default'"),
        ({"PidMode": "container:"}, "invalid PID mode: container:"),
        ({"CpuShares": -5}, "invalid CPU shares (-5): value must be a positive integer"),
        ({"CpusetCpus": "1-0"}, "Invalid value 1-0 for cpuset cpus: invalid format: 1-0"),
        ({"ExtraHosts": ["x:"]}, 'invalid IP address in add-host: ""'),
        (
            {"RestartPolicy": {"Name": "", "MaximumRetryCount": 3}},
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            {"Mounts": [{"Type": "image", "Source": BASE, "Target": "/x", "BindOptions": {}}]},
            'BindOptions must not be specified on mount type "image"',
        ),
        ({"IOMaximumIOps": 5}, "linux does not support configuration of maximum IOPs"),
        (
            {"RestartPolicy": {"Name": "always", "MaximumRetryCount": -1}},
            "maximum retry count can only be used with 'on-failure' and cannot be negative",
        ),
        (
            {"RestartPolicy": {"Name": "what"}},
            "invalid restart policy: unknown policy 'what'; use one of 'no', 'always', ",
        ),
        ({"LogConfig": {"Type": "what"}}, 'plugin "what" not found'),
        (
            {"LogConfig": {"Type": "json-file", "Config": {"max-buffer-size": "1m"}}},
            "max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "x"}}},
            "syslog-address should be in form proto://address, got x",
        ),
        (
            {"LogConfig": {"Type": "gelf", "Config": {}}},
            "gelf-address is a required parameter",
        ),
        (
            {"LogConfig": {"Type": "gelf", "Config": {"gelf-address": "x"}}},
            "gelf: endpoint needs to be TCP or UDP",
        ),
        (
            {"LogConfig": {"Type": "gelf", "Config": {"gelf-address": "udp://x"}}},
            "gelf: please provide gelf-address as proto://host:port",
        ),
        (
            {
                "LogConfig": {
                    "Type": "gelf",
                    "Config": {"gelf-address": "udp://127.0.0.1:9", "gelf-compression-type": "foo"},
                }
            },
            'unknown value "foo" for log opt "gelf-compression-type" for gelf log driver',
        ),
        (
            {
                "LogConfig": {
                    "Type": "gelf",
                    "Config": {"gelf-address": "udp://127.0.0.1:9", "gelf-compression-level": "99"},
                }
            },
            'unknown value "99" for log opt "gelf-compression-level" for gelf log driver',
        ),
        (
            {
                "LogConfig": {
                    "Type": "gelf",
                    "Config": {
                        "gelf-address": "tcp://127.0.0.1:9",
                        "gelf-compression-type": "none",
                    },
                }
            },
            "compression is only supported on UDP",
        ),
        (
            {
                "LogConfig": {
                    "Type": "gelf",
                    "Config": {"gelf-address": "udp://127.0.0.1:9", "gelf-tcp-max-reconnect": "3"},
                }
            },
            '"gelf-tcp-max-reconnect" is only valid for TCP',
        ),
        (
            {
                "LogConfig": {
                    "Type": "gelf",
                    "Config": {
                        "gelf-address": "tcp://127.0.0.1:9",
                        "gelf-tcp-reconnect-delay": "-1",
                    },
                }
            },
            '"gelf-tcp-reconnect-delay" must be a positive integer',
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-address": "foo://x"}}},
            "invalid fluentd-address (foo://x): unsupported scheme: 'foo'",
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-address": "x:y"}}},
            'invalid fluentd-address (x:y): parse "tcp://x:y": invalid port ":y" after host',
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-address": "unix://"}}},
            "invalid fluentd-address (unix://): path is empty",
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-address": "tcp://h:1/p"}}},
            "invalid fluentd-address (tcp://h:1/p): should not contain a path element",
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-async": "x"}}},
            'strconv.ParseBool: parsing "x": invalid syntax',
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-buffer-limit": "x"}}},
            "invalid size: 'x'",
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-retry-wait": "x"}}},
            'time: invalid duration "x"',
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-max-retries": "x"}}},
            'strconv.ParseUint: parsing "x": invalid syntax',
        ),
        (
            {
                "LogConfig": {
                    "Type": "fluentd",
                    "Config": {"fluentd-async-reconnect-interval": "1ms"},
                }
            },
            'invalid value for fluentd-async-reconnect-interval: value ("1ms") must be between '
            "100ms and 10s",
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"fluentd-write-timeout": "-1s"}}},
            "invalid value for fluentd-write-timeout: value must be a duration that is "
            "non-negative",
        ),
        (
            {"LogConfig": {"Type": "fluentd", "Config": {"foo": "1"}}},
            "unknown log opt 'foo' for fluentd log driver",
        ),
    ],
)
def test_a_host_configuration_is_refused_in_dockers_words(
    engine: RunningEngine, made: list[str], host: dict[str, Any], text: str
) -> None:
    status, message = create(engine, made, HostConfig=host)
    assert status == 400
    assert text in message


@pytest.mark.parametrize("option", ["", "what", "what=x", "no-new-privileges=what"])
def test_security_options_that_are_unknown(
    engine: RunningEngine, made: list[str], option: str
) -> None:
    """An error without a class in dockerd, hence its status."""
    status, message = create(engine, made, HostConfig={"SecurityOpt": [option]})
    assert (status, message.startswith("invalid --security-opt ")) == (500, True)


@pytest.mark.parametrize(
    ("config", "where", "value"),
    [
        ({"HostConfig": {"Isolation": "DEFAULT"}}, "HostConfig.Isolation", "DEFAULT"),
        ({"HostConfig": {"UTSMode": "host"}}, "HostConfig.UTSMode", "host"),
        ({"HostConfig": {"Sysctls": {"net/ipv4/ip_forward": "1"}}}, "HostConfig.Sysctls",
         {"net/ipv4/ip_forward": "1"}),
        ({"HostConfig": {"CgroupParent": "../create"}}, "HostConfig.CgroupParent", "../create"),
        ({"HostConfig": {"Mounts": [{"Type": "image", "Source": BASE, "Target": "/x"}]}},
         "Mounts.0.Propagation", "rprivate"),
        ({}, "HostConfig.PortBindings", None),
    ],
)  # fmt: skip
def test_odd_but_accepted_requests_start(
    engine: RunningEngine, made: list[str], config: dict[str, Any], where: str, value: Any
) -> None:
    found = inspected(engine, made, **config)
    engine.json("POST", f"/containers/{found['Id']}/start", status=204)
    assert found["Config"]["Hostname"] == found["Id"][:12]
    for step in where.split("."):
        found = found[int(step) if step.isdigit() else step]
    assert found == value


def test_a_single_other_network_replaces_the_default_one(
    engine: RunningEngine, made: list[str]
) -> None:
    asked = {"EndpointsConfig": {"none": {}}}
    found = inspected(engine, made, NetworkingConfig=asked)
    engine.json("POST", f"/containers/{found['Id']}/start", status=204)
    found = engine.json("GET", f"/containers/{found['Id']}/json")
    assert list(found["NetworkSettings"]["Networks"]) == ["none"]


def test_what_has_no_image_needs_a_command_first(engine: RunningEngine, made: list[str]) -> None:
    assert create(engine, made, Image="", Cmd=None) == (400, "no command specified")


def inspected(engine: RunningEngine, made: list[str], **config: Any) -> Any:
    status, name = create(engine, made, **config)
    assert status == 201, name
    return engine.json("GET", f"/containers/{name}/json")


def test_inspect_shows_what_was_settled(engine: RunningEngine, made: list[str]) -> None:
    found = inspected(engine, made, WorkingDir="/a/../b/", Healthcheck={})
    assert found["Config"]["WorkingDir"] == "/b"
    assert found["Config"]["Healthcheck"] == {}
    assert found["HostConfig"]["SecurityOpt"] is None
    for host in ({"Privileged": True}, {"PidMode": "host"}, {"IpcMode": "host"}):
        found = inspected(engine, made, HostConfig=host)
        assert found["HostConfig"]["SecurityOpt"] == ["label=disable"], host
        assert found["HostConfig"]["ShmSize"] == 64 << 20, host
    host = {"Privileged": True, "SecurityOpt": ["label=level:s0"]}
    found = inspected(engine, made, HostConfig=host)
    assert found["HostConfig"]["SecurityOpt"] == ["label=level:s0"]
    found = inspected(engine, made, HostConfig={"SecurityOpt": ["apparmor=unconfined"]})
    assert found["AppArmorProfile"] == "unconfined"
    assert inspected(engine, made, HostConfig={"Links": []})["HostConfig"]["Links"] is None


def test_a_health_check_of_an_unknown_kind_is_kept_and_not_run(
    engine: RunningEngine, made: list[str]
) -> None:
    found = inspected(engine, made, Healthcheck={"Test": ["WHAT", "x"]})
    assert found["Config"]["Healthcheck"]["Test"] == ["WHAT", "x"]
    engine.json("POST", f"/containers/{found['Id']}/start", status=204)
    assert "Health" not in engine.json("GET", f"/containers/{found['Id']}/json")["State"]


def test_networks_of_a_container_that_has_not_run(engine: RunningEngine, made: list[str]) -> None:
    for mode in ("host", "none"):
        networks = inspected(engine, made, HostConfig={"NetworkMode": mode})["NetworkSettings"]
        assert list(networks["Networks"]) == [mode]
        assert networks["Networks"][mode]["NetworkID"] == ""


def test_naming_other_networks_leaves_the_default_one_out(
    engine: RunningEngine, made: list[str]
) -> None:
    network = engine.json("POST", "/networks/create", {"Name": "create-other"}, 201)["Id"]
    try:
        asked = {"EndpointsConfig": {"create-other": {"Aliases": ["it"]}}}
        found = inspected(engine, made, NetworkingConfig=asked)
        assert list(found["NetworkSettings"]["Networks"]) == ["create-other"]
        engine.json("POST", f"/containers/{found['Id']}/start", status=204)
        found = engine.json("GET", f"/containers/{found['Id']}/json")
        assert list(found["NetworkSettings"]["Networks"]) == ["create-other"]
        engine.json("POST", f"/containers/{found['Id']}/kill", status=204)
        engine.json("POST", f"/containers/{found['Id']}/wait")
        found = engine.json("GET", f"/containers/{found['Id']}/json")
        kept = found["NetworkSettings"]["Networks"]["create-other"]
        assert (kept["NetworkID"], kept["IPAddress"]) == (network, "")
    finally:
        for name in made:
            engine.request("DELETE", f"/containers/{name}?force=1")
        engine.json("DELETE", f"/networks/{network}", status=204)


def test_endpoints_without_settings_and_several_for_old_clients(
    engine: RunningEngine, made: list[str]
) -> None:
    asked: dict[str, Any] = {"EndpointsConfig": {"bridge": None}}
    assert create(engine, made, NetworkingConfig=asked) == (400, "no EndpointSettings for bridge")
    asked = {"EndpointsConfig": {"bridge": {}, "other": {}}}
    status, message = create(engine, made, version="/v1.43", NetworkingConfig=asked)
    assert status == 400
    assert message.startswith("Container cannot be created with multiple network endpoints: ")


def test_an_empty_word_is_a_command_that_is_not_found(
    engine: RunningEngine, made: list[str]
) -> None:
    status, name = create(engine, made, Cmd=[""])
    assert status == 201
    status, headers, data = engine.request("POST", f"/containers/{name}/start")
    assert status == 400
    assert 'exec: "": executable file not found in $PATH' in json.loads(data)["message"]
    assert headers["portside-exit-status"] == "127"


def test_a_link_is_no_container(engine: RunningEngine, made: list[str]) -> None:
    status, name = create(engine, made, query="?name=create-no-link")
    assert status == 201
    status, _, data = engine.request("DELETE", "/containers/create-no-link?link=1")
    assert status == 409
    assert "cannot remove the default link name of the container" in json.loads(data)["message"]
    engine.json("GET", f"/containers/{name}/json")


def test_files_can_be_put_into_the_working_directory_before_the_first_start(
    engine: RunningEngine, made: list[str]
) -> None:
    status, name = create(engine, made, WorkingDir="/not/there/yet")
    assert status == 201
    path = f"/containers/{name}/archive?path=/not/there"
    assert engine.request("HEAD", f"{path}/yet")[0] == 200
    assert engine.request("HEAD", f"{path}/else")[0] == 404


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/bin/busybox", "Cannot mkdir: /bin/busybox is not a directory"),
        ("/bin/sh", "Cannot mkdir: /bin/sh is not a directory"),
        ("/etc/passwd/", "Cannot mkdir: /etc/passwd is not a directory"),
        ("/etc/../etc/passwd", "Cannot mkdir: /etc/passwd is not a directory"),
        ("/etc/passwd/x", "lstat /etc/passwd/x: not a directory"),
    ],
)
def test_a_working_directory_that_is_a_file_is_refused(
    engine: RunningEngine, made: list[str], path: str, words: str
) -> None:
    assert create(engine, made, WorkingDir=path) == (500, words)
    assert create(engine, made, WorkingDir="/etc/new")[0] == 201


def test_only_a_signal_that_is_meant_to_end_it_resumes_a_paused_container(
    engine: RunningEngine, made: list[str]
) -> None:
    for stop, sent, state in (
        ("KILL", "USR1", "paused"),
        ("USR1", "USR1", None),
        ("", "USR1", None),
    ):
        status, name = create(engine, made, StopSignal=stop)
        assert status == 201
        engine.json("POST", f"/containers/{name}/start", status=204)
        engine.json("POST", f"/containers/{name}/pause", status=204)
        engine.json("POST", f"/containers/{name}/kill?signal={sent}", status=204)
        found = engine.json("GET", f"/containers/{name}/json")["State"]["Paused"]
        assert found is (state == "paused"), stop


def test_an_exec_is_reported_with_the_containers_user(
    engine: RunningEngine, made: list[str]
) -> None:
    for user, asked, shown in (("", "", None), ("1:2", "", "1:2"), ("1:2", "3", "3")):
        status, name = create(engine, made, User=user)
        assert status == 201
        engine.json("POST", f"/containers/{name}/start", status=204)
        body = {"Cmd": ["true"], "User": asked, "DetachKeys": "ctrl-@,a"}
        made_exec = engine.json("POST", f"/containers/{name}/exec", body, 201)["Id"]
        found = engine.json("GET", f"/exec/{made_exec}/json")
        assert found["ProcessConfig"].get("user") == shown
        assert found["DetachKeys"] == "AGE="


def test_details_of_a_log_are_quoted_as_a_query(engine: RunningEngine, made: list[str]) -> None:
    log = {"Type": "json-file", "Config": {"labels": "a"}}
    asked = {"Cmd": ["echo", "hi"], "Labels": {"a": "1 /&"}, "HostConfig": {"LogConfig": log}}
    status, name = create(engine, made, Tty=True, **asked)
    assert status == 201
    engine.json("POST", f"/containers/{name}/start", status=204)
    engine.json("POST", f"/containers/{name}/wait")
    _, _, data = engine.request("GET", f"/containers/{name}/logs?stdout=1&details=1")
    assert data == b"a=1+%2F%26 hi\r\n"
    # Docker has nothing against a span of time that cannot hold anything.
    status, _, data = engine.request("GET", f"/containers/{name}/logs?stdout=1&since=2&until=1")
    assert (status, data) == (200, b"")


def test_a_filter_by_exit_status_does_not_mean_all(engine: RunningEngine, made: list[str]) -> None:
    status, name = create(engine, made, Cmd=["sh", "-c", "exit 7"])
    assert status == 201
    engine.json("POST", f"/containers/{name}/start", status=204)
    engine.json("POST", f"/containers/{name}/wait")
    path = "/containers/json?filters=%7B%22exited%22%3A%5B%227%22%5D%7D"
    assert engine.json("GET", path) == []
    assert [each["Id"] for each in engine.json("GET", f"{path}&all=1")] == [name]


def test_null_is_nothing_at_any_depth(engine: RunningEngine, made: list[str]) -> None:
    host = {
        "Mounts": [{"Type": "tmpfs", "target": "/x", "Source": None, "TmpfsOptions": None}],
        "Ulimits": [{"Name": "nofile", "SOFT": 10, "Hard": 20}],
        "Devices": None,
        "PortBindings": {"80/tcp": [{"HostIp": None, "HostPort": None}], "82/tcp": None},
        "RestartPolicy": {"Name": None},
    }
    found = inspected(
        engine, made, ExposedPorts={"81/tcp": None}, Labels={"a": None}, HostConfig=host
    )
    assert found["HostConfig"]["Mounts"] == [{"Type": "tmpfs", "Target": "/x"}]
    assert found["HostConfig"]["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]
    assert found["Config"]["ExposedPorts"] == {"81/tcp": {}}
    assert found["Config"]["Labels"] == {"a": ""}
    bindings = found["HostConfig"]["PortBindings"]
    assert bindings == {"80/tcp": [{"HostIp": "", "HostPort": ""}]}
    status, message = create(engine, made, HostConfig={"Mounts": [{"Type": 5}]})
    assert status == 400
    assert message.startswith("invalid JSON: ")


def test_updates_that_contradict_what_is_set(engine: RunningEngine, made: list[str]) -> None:
    def refused(body: dict[str, Any], **host: Any) -> str:
        status, name = create(engine, made, HostConfig=host)
        assert status == 201
        status, _, data = engine.request("POST", f"/containers/{name}/update", body)
        assert status == 409
        message = json.loads(data)["message"]
        assert message.startswith(f"Cannot update container {name}: ")
        return str(message)

    swap = {"Memory": 100 << 20, "MemorySwap": 200 << 20}
    more = {"Memory": 300 << 20}
    for host in ({}, {"MemorySwap": -1, "Memory": 100 << 20}, {"NanoCpus": 10**9}):
        assert "update the memoryswap at the same time" in refused(more, **host)
    assert "already set memoryswap limit" in refused({"Memory": 300 << 20}, **swap)
    for body, host, words in (
        ({"CpuQuota": 50000}, {"NanoCpus": 10**9}, "CPU Quota cannot be updated as NanoCPUs"),
        ({"NanoCpus": 10**9}, {"CpuQuota": 50000}, "Nano CPUs cannot be updated as CPU Quota"),
        ({"NanoCpus": 10**9}, {"CpuPeriod": 50000}, "Nano CPUs cannot be updated as CPU Period"),
    ):
        assert words in refused(body, **host)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ({"Memory": 300 << 20, "MemorySwap": -1}, {"Memory": 300 << 20, "MemorySwap": -1}),
        ({"MemorySwap": 90 << 20}, {"MemorySwap": 90 << 20}),
        ({"MemoryReservation": 200 << 20}, {"MemoryReservation": 200 << 20}),
        ({"PidsLimit": -1}, {"PidsLimit": 0}),
        ({"CgroupParent": "/other"}, {}),
        ({"OomKillDisable": True, "MemorySwappiness": 5, "CpuCount": 2}, {}),
        ({"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x"}]}, {}),
        ({"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 5}]}, {}),
        ({"DeviceCgroupRules": ["c 1:3 rwm"], "DeviceRequests": [{"Driver": "x"}]}, {}),
    ],
)
def test_an_update_changes_what_it_names_and_docker_updates(
    engine: RunningEngine, made: list[str], body: dict[str, Any], changed: dict[str, Any]
) -> None:
    """New limits are not compared with those that stay; other fields are ignored."""
    before = inspected(engine, made, HostConfig={"Memory": 100 << 20, "MemorySwap": 150 << 20})
    engine.json("POST", f"/containers/{before['Id']}/update", body)
    after = engine.json("GET", f"/containers/{before['Id']}/json")["HostConfig"]
    assert after == {**before["HostConfig"], **changed}


@pytest.mark.parametrize("port", ["0/tcp", "80/foo", "0-2/udp", "x", "70000/tcp"])
def test_any_port_can_be_exposed(engine: RunningEngine, made: list[str], port: str) -> None:
    config = inspected(engine, made, ExposedPorts={port: {}})["Config"]
    assert config["ExposedPorts"] == {port: {}}
    engine.request("POST", f"/containers/{made[-1]}/start")
    assert engine.json("GET", f"/containers/{made[-1]}/json")["State"]["Running"]
    linked = {"HostConfig": {"Links": [f"{made[-1]}:other"]}}
    inspected(engine, made, **linked)
    assert engine.request("POST", f"/containers/{made[-1]}/start")[0] == 204


def test_port_0_is_not_published(engine: RunningEngine, made: list[str]) -> None:
    host = {"PublishAllPorts": True}
    inspected(engine, made, ExposedPorts={"0/tcp": {}}, HostConfig=host)
    assert engine.request("POST", f"/containers/{made[-1]}/start")[0] == 204


@pytest.mark.parametrize("number", ["99", "65", "-1"])
def test_a_stop_signal_that_no_kernel_has_ends_the_container(
    engine: RunningEngine, made: list[str], number: str
) -> None:
    assert inspected(engine, made, StopSignal=number)["Config"]["StopSignal"] == number
    for query in ("", f"?signal={number}"):
        engine.request("POST", f"/containers/{made[-1]}/start")
        assert engine.request("POST", f"/containers/{made[-1]}/stop{query}")[0] == 204
        assert engine.json("GET", f"/containers/{made[-1]}/json")["State"]["ExitCode"] == 137
    status, _, data = engine.request(
        "POST", f"/commit?container={made[-1]}&changes=STOPSIGNAL%20{number}", None
    )
    assert status == 201
    identifier = json.loads(data)["Id"]
    assert engine.json("GET", f"/images/{identifier}/json")["Config"]["StopSignal"] == number
    engine.request("DELETE", f"/images/{identifier}?force=1")
