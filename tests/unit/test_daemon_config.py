"""The daemon's options: flags, daemon.json, and errors that name the key."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portside.daemon import config
from portside.daemon.listeners import link_docker_sock, open_all
from portside.daemon.main import main
from portside.engine.option_checks import warnings
from portside.engine.options import DaemonOptions, Pool, Runtime, Ulimit, specs
from portside.model.errors import InvalidParameter
from portside.model.paths import DEFAULT_SOCKET


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(content: Any) -> str:
        path = tmp_path / "daemon.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return make


@pytest.mark.parametrize("arguments", [["--exec-root", "/run/else"], []])
def test_the_socket_stays_where_clients_look_for_it(write: Any, arguments: list[str]) -> None:
    """Also with another exec root, on the command line or in the file, as dockerd's."""
    file = write({} if arguments else {"exec-root": "/run/else"})
    found = config.load(["--config-file", file, *arguments])
    assert found.exec_root == "/run/else"
    assert found.effective_hosts == (f"unix://{DEFAULT_SOCKET}",)


def test_flags_in_every_form(write: Any) -> None:
    found = config.load(
        [
            "-H",
            "unix:///a",
            "--host=tcp://127.0.0.1:1",
            "-D",
            "--icc=false",
            "-p/run/x.pid",
            "--label",
            "a=b",
            "--label=c=d",
            "--default-ulimit",
            "nofile=5:9",
            "--add-runtime",
            "crun=/usr/bin/crun",
            "--log-opt",
            "max-size=1m",
            "--mtu",
            "1400",
            "--default-address-pool",
            "base=10.1.0.0/16,size=24",
            "--default-shm-size",
            "128M",
            "--config-file",
            write({}),
        ]
    )
    assert found.hosts == ("unix:///a", "tcp://127.0.0.1:1")
    assert (found.debug, found.icc, found.pidfile) == (True, False, "/run/x.pid")
    assert found.labels == ("a=b", "c=d")
    assert found.default_ulimits == {"nofile": Ulimit("nofile", 5, 9)}
    assert found.runtimes == {"crun": Runtime("/usr/bin/crun")}
    assert found.log_opts == {"max-size": "1m"}
    assert found.mtu == 1400
    assert found.default_address_pools == (Pool("10.1.0.0/16", 24),)
    assert found.default_shm_size == 128 << 20


def test_the_file_has_the_same_keys(write: Any) -> None:
    path = write(
        {
            "hosts": ["unix:///b"],
            "debug": True,
            "insecure-registries": ["r:5000"],
            "default-ulimits": {"core": {"Name": "core", "Soft": 1, "Hard": 2}},
            "runtimes": {"runc": {"path": "/usr/sbin/runc", "runtimeArgs": ["-x"]}},
            "default-address-pools": [{"base": "10.0.0.0/8", "size": 20}],
            "log-opts": {"max-file": "2"},
            "default-shm-size": "32m",
        }
    )
    found = config.load(["--config-file", path])
    assert found.hosts == ("unix:///b",)
    assert found.default_ulimits["core"] == Ulimit("core", 1, 2)
    assert found.runtimes["runc"] == Runtime("/usr/sbin/runc", ("-x",))
    assert found.default_shm_size == 32 << 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"no-such-key": 1}, "don't match any configuration option: no-such-key"),
        ({"debug": "yes"}, '"debug" must be true or false'),
        ({"hosts": "unix:///x"}, '"hosts" must be a list of strings'),
        ({"mtu": -4}, "invalid default MTU: -4"),
        ({"default-runtime": "nope"}, "specified default runtime 'nope' does not exist"),
        ({"labels": ["plain"]}, "bad attribute format: plain"),
        ({"log-level": "loud"}, 'invalid logging level: "loud"'),
        ({"max-concurrent-downloads": -1}, "invalid max concurrent downloads: -1"),
        ({"log-opts": {"max-size": 5}}, "log-opts.max-size must be a string"),
        ({"log-opts": {"nope": "5"}}, "unknown log opt 'nope'"),
        ({"log-driver": "nope"}, "log-driver"),
        ({"bip": "nope"}, "bip: invalid value 'nope'"),
        ({"bip": "10.0.0.1"}, "bip: invalid value '10.0.0.1'"),
        ({"bip": "10.0.0.1/24", "bridge": "br0"}, "bridge and bip are mutually exclusive"),
        ({"fixed-cidr": "x"}, "fixed-cidr: invalid value"),
        ({"default-gateway": "fe80::1"}, "default-gateway: invalid value"),
        ({"dns": ["1.1.1.1", "x"]}, "dns: invalid value 'x'"),
        ({"ip": "x"}, "ip: invalid value"),
        ({"default-address-pools": [{"base": "x", "size": 24}]}, "default-address-pools"),
        ({"default-address-pools": [{"base": "10.0.0.0/8", "size": 4}]}, "default-address-pools"),
        ({"default-address-pools": {}}, '"default-address-pools" must be a list of objects'),
        ({"default-shm-size": "64x"}, '"default-shm-size": invalid suffix'),
        ({"default-ulimits": {"core": {"Hard": 1, "Soft": 2}}}, "default-ulimits.core"),
        ({"storage-driver": "btrfs"}, "storage-driver: 'btrfs' is not supported"),
        ({"exec-opts": ["bogus"]}, "must be formatted 'opt=value'"),
        ({"authorization-plugins": ["x"]}, "authorization-plugins is not supported"),
        ({"rootless": True}, "rootless is not supported"),
        ({"default-network-opts": {"bridge": "x"}}, '"default-network-opts" must be an object'),
        ({"storage-opts": ["size=1"]}, "storage-opts: unknown option 'size=1'"),
        ({"registry-mirrors": ["r.test"]}, "registry-mirrors: invalid mirror: 'r.test'"),
        ({"registry-mirrors": ["https://u:p@r.test"]}, "registry-mirrors"),
        ({"upstream-mirrors": ["https://m.test"]}, "write HOST=https://MIRROR"),
        ({"upstream-mirrors": ["quay.io=m.test"]}, "upstream-mirrors: invalid mirror: 'm.test'"),
        ({"insecure-registries": ["10.0.0.0/99"]}, "insecure-registries: invalid value"),
        ({"labels": ["a=1", "a=2"]}, "conflict labels for a=2 and a=1"),
        ({"group": "no-such-group-here"}, "group no-such-group-here not found"),
        ({"hosts": ["ftp://x"]}, "invalid bind address format: ftp://x"),
        ({"hosts": ["unix://rel"]}, "give an absolute path"),
        ({"hosts": ["tcp://0.0.0.0:2375"]}, "refusing to listen on tcp://0.0.0.0:2375"),
        ({"metrics-addr": "x:y"}, "metrics-addr: 'x:y' is not HOST:PORT"),
        ({"data-root": "rel"}, "data-root: 'rel' is not an absolute path"),
        ({"seccomp-profile": "/no/such"}, "seccomp-profile: /no/such"),
        ({"cgroup-parent": "a/../b"}, "cgroup-parent: invalid path"),
        ({"oom-score-adjust": 5000}, "oom-score-adjust: 5000"),
        ({"features": {"x": 1}}, "features.x must be true or false"),
        ({"proxies": {"https-proxy": 1}}, "proxies.https-proxy"),
        ({"runtimes": {"x": {}}}, "either a runtimeType or a path must be configured"),
        ({"runtimes": {"x": 1}}, '"runtimes.x" must be an object'),
        ({"runtimes": {"x": {"path": "a", "runtimeType": "b"}}}, "cannot configure both path and"),
        ({"runtimes": {"x": {"path": "a", "options": {"a": 1}}}}, "options cannot be used with"),
        ({"runtimes": {"x": {"runtimeType": "b", "runtimeArgs": ["-x"]}}}, "args cannot be used"),
        ("{broken", "invalid character 'b' looking for beginning of object key"),
        ("[]", "one JSON object"),
    ],
)
def test_bad_files_name_the_key(write: Any, content: Any, words: str) -> None:
    path = write(content)
    with pytest.raises(InvalidParameter) as caught:
        config.load(["--config-file", path])
    assert words in str(caught.value)
    assert path in str(caught.value)


def test_runtimes_of_both_sources_and_of_containerds_names(write: Any) -> None:
    runtimes = {
        "crun": {
            "runtimeType": "io.containerd.runc.v2",
            "options": {"BinaryName": "/usr/bin/crun"},
        },
        "gvisor": {"runtimeType": "io.containerd.runsc.v1", "options": {"ConfigPath": "/x"}},
        "same": {"path": "/from/file"},
    }
    flags = ["--add-runtime", "mine=/usr/bin/mine", "--add-runtime", "same=/from/flag"]
    found = config.load([*flags, "--config-file", write({"runtimes": runtimes})])
    assert {name: item.path for name, item in found.runtimes.items()} == {
        "crun": "/usr/bin/crun",
        "gvisor": "runsc",
        "mine": "/usr/bin/mine",
        "same": "/from/file",
    }


def test_conflicts_show_maps_and_proxies(write: Any) -> None:
    for flags, file, words in (
        (["--log-opt", "max-size=5m", "--log-opt", "a=b"], {"log-opts": {"max-size": "10m"}},
         "log-opts: (from flag: map[a:b max-size:5m], from file: map[max-size:10m])"),
        (["--http-proxy", "http://b:2"], {"proxies": {"http-proxy": "http://a:1"}},
         "http-proxy: (from flag: http://b:2, from file: http://a:1)"),
    ):  # fmt: skip
        with pytest.raises(InvalidParameter) as caught:
            config.load([*flags, "--config-file", write(file)])
        assert words in str(caught.value)
    assert config.load(["--https-proxy", "http://b:2", "--config-file",
                        write({"proxies": {"http-proxy": "http://a:1"}})])  # fmt: skip


def test_conflicts_name_both_sides(write: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        config.load(["--label", "a=b", "--config-file", write({"labels": ["c=d"]})])
    assert (
        "the following directives are specified both as a flag and in the configuration file: "
        "labels: (from flag: [a=b], from file: [c=d])"
    ) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["--mtu"], "flag needs an argument: --mtu"),
        (["--mtu", "big"], 'invalid argument "big" for "--mtu" flag'),
        (["--icc=maybe"], 'invalid argument "maybe" for "--icc" flag'),
        (["--default-ulimit", "nofile=9:5"], "soft limit must be less than or equal"),
        (["--default-ulimit", "bogus=1"], "invalid ulimit type: bogus"),
        (["--dns-search", "bad domain"], "bad domain is not a valid domain"),
        (["--label", "com.docker.x=1"], "label com.docker.x=1 is not allowed"),
        (["--exec-opt", "bogus=1"], "invalid exec-opt (bogus=1): unknown option: 'bogus'"),
        (["--default-ipc-mode", "host"], 'use "shareable" or "private"'),
        (["--default-cgroupns-mode", "x"], "invalid default cgroup namespace (x)"),
        (["--default-address-pool", "10.0.0.0/8"], "invalid default address pool"),
        (["extra"], "accepts no arguments: extra"),
        (["--config-file", "/no/such/file"], "open /no/such/file: no such file or directory"),
        (["--tlsverify"], "--tlscert and --tlskey"),
        (["--bip", "x"], "bip: invalid value 'x'"),
        (["-H", "tcp://10.0.0.1:1"], "without TLS"),
    ],
)
def test_bad_flags(arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        config.load(arguments)
    assert words in str(caught.value)


def test_the_file_is_not_blamed_for_a_flag(write: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        config.load(["--bip", "x", "--config-file", write({})])
    assert "daemon.json" not in str(caught.value)


def test_reload_changes_only_what_can_be_reloaded(write: Any) -> None:
    path = write({"labels": ["a=b"], "bip": "10.5.0.1/24"})
    arguments = ["--config-file", path]
    current = config.load(arguments)
    Path(path).write_text(json.dumps({"labels": ["a=c"], "bip": "10.6.0.1/24", "debug": True}))
    fresh = config.reload(current, arguments)
    assert (fresh.labels, fresh.debug, fresh.bip) == (("a=c",), True, "10.5.0.1/24")


def test_open_tcp_is_refused_off_loopback() -> None:
    for host in ("tcp://0.0.0.0:0", "tcp://:0", "tcp://192.0.2.1:1"):
        with pytest.raises(InvalidParameter, match="without TLS"):
            open_all(DaemonOptions(hosts=(host,)))
    listeners = open_all(DaemonOptions(hosts=("tcp://127.0.0.1:0",)))
    for listener in listeners:
        listener.sock.close()


def test_the_link_for_docker_clients(tmp_path: Path) -> None:
    """It is made where nothing lives, and nowhere else."""
    target, link = tmp_path / "s", tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(target))
        ours.listen()
        assert link_docker_sock(target, link) == link
        assert link.readlink() == target
        assert link_docker_sock(target, link) == link, "twice is no harm"
        link.unlink()
        link.symlink_to(tmp_path / "gone")
        assert link_docker_sock(target, link) == link, "a dangling link is nobody's"
        link.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(link))
            other.listen()
            assert link_docker_sock(target, link) is None, "another engine lives there"
            assert stat.S_ISSOCK(link.stat().st_mode)
        link.unlink()
        link.write_text("a file")
        assert link_docker_sock(target, link) is None
        assert link.read_text() == "a file"


def test_a_user_needs_directories_of_its_own(
    monkeypatch: pytest.MonkeyPatch, write: Any, capfd: Any, tmp_path: Any
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["--config-file", write({}), "--exec-root", str(tmp_path / "x")]) == 1
    assert "belongs to another user" in capfd.readouterr().err


def test_names_are_unique_and_documented() -> None:
    table = specs()
    flags = [spec.flag for spec in table.values() if spec.flag]
    keys = [spec.key for spec in table.values() if spec.key]
    assert len(flags) == len(set(flags))
    assert len(keys) == len(set(keys))
    text = config.usage()
    assert all(f"--{flag}" in text for flag in flags)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_wild_arguments_never_crash(arguments: list[str]) -> None:
    try:
        config.parse_flags(arguments)
    except (InvalidParameter, config.HelpWanted, config.VersionWanted):
        pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["hosts", "debug", "runtimes", "x", "mtu"]), x, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_wild_files_never_crash(content: Any) -> None:
    try:
        config.parse_file(json.dumps(content))
    except InvalidParameter:
        pass


DOCKER_DESKTOP = {
    "builder": {"gc": {"defaultKeepStorage": "20GB", "enabled": True}},
    "experimental": False,
    "features": {"buildkit": True},
}


@pytest.mark.parametrize(
    "content",
    [
        DOCKER_DESKTOP,
        {"allow-direct-routing": True},
        {"allow-nondistributable-artifacts": ["r.test"]},
        {"authorization-plugins": []},
        {"containerd": "/run/containerd/containerd.sock", "containerd-namespace": "moby",
         "containerd-plugins-namespace": "plugins.moby", "cri-containerd": True},
        {"cpu-rt-period": 5, "cpu-rt-runtime": 5},
        {"deprecated-key-path": "/x"},
        {"exec-opts": ["native.cgroupdriver=systemd"]},
        {"ip-forward-no-drop": True, "raw-logs": True, "rootless": False},
        {"ip6tables": False},
        {"network-control-plane-mtu": 1400, "node-generic-resources": ["GPU=1"],
         "swarm-default-advertise-addr": "192.0.2.1"},
        {"selinux-enabled": True},
        {"storage-driver": "overlayfs", "storage-opts": ["overlay2.size=1G"]},
        {"userland-proxy-path": "/usr/bin/docker-proxy"},
        {"default-runtime": "runc"},
        {"userns-remap": "", "containerd": ""},
        {"hosts": None, "debug": None, "log-opts": None, "runtimes": None, "dns": None},
        "null", "", " \n", "\ufeff{}",
    ],
)  # fmt: skip
def test_files_that_start_dockerd(write: Any, content: Any) -> None:
    assert main(["--validate", "--config-file", write(content)]) == 0


def test_every_option_without_effect_says_why(write: Any) -> None:
    found = config.load(
        ["--containerd=/x", "--raw-logs", "--config-file",
         write({"cpu-rt-period": 5, "builder": {}, "ip6tables": False, "selinux-enabled": True,
                "storage-opts": ["overlay2.size=1G"], "exec-opts": ["native.cgroupdriver=systemd"],
                "insecure-registries": ["https://r.test"]})]
    )  # fmt: skip
    words = warnings(found)
    for option in ("containerd", "cpu-rt-period", "ip6tables", "selinux-enabled", "storage-opts",
                   "exec-opts", "insecure registry https://r.test"):  # fmt: skip
        assert any(word.startswith(option) for word in words), option
    assert not any(word.startswith(("raw-logs", "builder")) for word in words)
    assert found.insecure_hosts == ("r.test",)


def test_values_that_docker_writes(write: Any) -> None:
    found = config.load(
        ["--add-runtime", "c=/c", "--config-file",
         write({"host-gateway-ip": "192.0.2.1",
                "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
                "runtimes": {"a": {"runtimeType": "io.containerd.runsc.v1", "options": {}},
                             "b": {"runtimeType": "io.containerd.runc.v2",
                                   "options": {"BinaryName": "/usr/bin/crun"}}}})]
    )  # fmt: skip
    assert found.host_gateway_ips == ("192.0.2.1",)
    assert found.default_network_opts == {"bridge": {"com.docker.network.driver.mtu": "1400"}}
    assert {name: runtime.path for name, runtime in found.runtimes.items()} == {
        "a": "runsc", "b": "/usr/bin/crun", "c": "/c",
    }  # fmt: skip


def test_default_network_options_as_flags(write: Any) -> None:
    found = config.load(
        ["--default-network-opt", "bridge=a=1", "--default-network-opt=bridge=b=2",
         "--default-network-opt", "macvlan=c=3=4", "--config-file", write({})]
    )  # fmt: skip
    assert found.default_network_opts == {"bridge": {"a": "1", "b": "2"}, "macvlan": {"c": "3=4"}}
