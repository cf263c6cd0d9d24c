# ruff: noqa: E501 - a line is a command line
"""Our command and the docker CLI ask the engine for the same: their requests, side by side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import PORTSIDE, Answer, FakeEngine, call

CREATE = r"""
    img
    img:tag cmd a b
    --name n -e A=b -e HOME --env-file ENVFILE -l a=b -l c --label-file LABELS -w /w -u 1:2 -h hh --domainname dd img
    -i img
    -t img
    -a stdout img
    -a stdin -a stderr -i img
    --add-host a:1.2.3.4 --add-host b=::1 --add-host c:host-gateway img
    --annotation a=b --blkio-weight 100 --blkio-weight-device /dev/sda:200 img
    --cap-add NET_ADMIN --cap-add sys_time --cap-add CAP_KILL --cap-drop MKNOD --cap-drop kill img
    --cap-add ALL --cap-drop ALL img
    --cgroup-parent /p --cgroupns host img
    --cpu-period 1000 --cpu-quota 2000 --cpu-rt-period 5 --cpu-rt-runtime 6 -c 7 img
    --cpus 1.5 --cpuset-cpus 0-1 --cpuset-mems 0 img
    --device /dev/null --device /dev/zero:/dev/x:r --device /dev/full:rw img
    --device-cgroup-rule "c 1:3 mr" img
    --device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:10 --device-read-iops /dev/sda:5 --device-write-iops /dev/sda:6 img
    --dns 1.1.1.1 --dns-option ndots:1 --dns-search x.y img
    --entrypoint "" img
    --entrypoint /bin/sh img -c x
    --expose 80 --expose 90-92/udp img
    --gpus all img
    --gpus "device=0,1" img
    --gpus '"device=0,1",capabilities=utility' img
    --group-add 5 --group-add g img
    --health-cmd "echo hi" --health-interval 5s --health-retries 3 --health-timeout 1s --health-start-period 2s --health-start-interval 1s img
    --no-healthcheck img
    --init --ipc shareable --isolation default img
    --init=false img
    --ip 1.2.3.4 --network foo img
    --ip6 ::1 --link-local-ip 169.254.1.1 --mac-address 02:42:ac:11:00:02 --network foo --network-alias a --network-alias b img
    --network name=foo,alias=x,ip=1.2.3.4,driver-opt=a=b --network bar img
    --network host img
    --network container:x img
    --link a:b --link c img
    --log-driver json-file --log-opt max-size=1m --log-opt max-file=3 img
    -m 64m --memory-reservation 32m --memory-swap -1 --memory-swappiness 10 img
    -m 1.5g --shm-size 1g --kernel-memory 5m img
    --mount type=bind,src=/a,dst=/b,readonly img
    --mount type=bind,source=/a,target=/b,bind-propagation=rslave,bind-recursive=disabled img
    --mount type=volume,src=v,dst=/d,volume-nocopy,volume-label=a=b,volume-driver=d,volume-opt=x=y img
    --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1700 img
    --mount dst=/x img
    --mount type=image,src=alpine,dst=/x,image-subpath=a img
    --oom-kill-disable --oom-score-adj 500 img
    --pid host --uts host --userns host img
    --pid container:abc img
    --pids-limit -1 img
    --platform linux/arm64 img
    --privileged --read-only --rm img
    -p 80 -p 8080:80 -p 127.0.0.1:53:53/udp -p 1000-1002:2000-2002 -p [::1]:80:80 img
    -p 1.2.3.4::80 -p 1000-1002:80 img
    -P img
    --restart on-failure:5 img
    --runtime runc img
    --security-opt seccomp=unconfined --security-opt label=disable --security-opt apparmor=x --security-opt no-new-privileges:true img
    --security-opt systempaths=unconfined img
    --stop-signal INT --stop-timeout 5 img
    --storage-opt size=10G img
    --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=1 img
    --tmpfs /run --tmpfs /tmp:rw,size=1m img
    --ulimit nofile=10:20 --ulimit nproc=5 img
    -v /a:/b:ro,z --volume-driver local --volumes-from x:ro img
    -v /anon img
    -v ./rel:/r img
    --blkio-weight-device sda img
    --add-host a img
    --add-host a:x img
    --cgroupns foo img
    --cpus 1.55555555555 img
    --device /dev/null:/dev/x:q img
    --device-cgroup-rule "x" img
    --device-read-bps /dev/sda img
    --device-read-iops /dev/sda:-1 img
    --dns foo img
    --expose foo img
    --health-retries -1 img
    --no-healthcheck --health-cmd x img
    --ip 1.2.3.4 --network foo --network foo img
    --network host --network foo img
    --network-alias a img
    --log-driver none --log-opt a=b img
    --memory-swappiness 200 img
    --mount type=volume,foo=bar,dst=/x img
    --mount foo img
    --mount type=tmpfs,dst=/t,tmpfs-size=x img
    --pid foo img
    -p 80:x img
    -p 99999:80 img
    --restart on-failure:x img
    --restart unless-stopped --rm img
    --security-opt seccomp=/nosuch img
    --sysctl foo=1 img
    --ulimit nofile=x img
    -v "" img
    --env-file /nosuch img
    -e =x img
    -e "" img
    --blkio-weight 70000 img
    --cpu-shares x img
    --memory "" img
    --tty=foo img
    --nosuch img
    -Z img
    --name
    -e
"""

OTHERS = r"""
    ps --filter status=running -n 3
    ps -a -l
    ps -s --filter "foo"
    images -a --filter dangling=false x:y
    network ls --filter name=a --filter name=b
    network create --subnet 10.0.0.0/24 --ip-range 10.0.0.128/25 --gateway 10.0.0.1 --aux-address h=10.0.0.5 -o a=b --label l --internal --ipv6 --attachable n
    network create --subnet 10.0.0.0/24 --subnet fd00::/64 --gateway 10.0.0.1 --gateway fd00::1 n
    network create --subnet 10.0.0.0/24 --gateway 11.0.0.1 n
    network create --ip-range 10.0.0.0/24 n
    network create --subnet 10.0.0.0/24 --subnet 10.0.0.0/16 n
    network create --ipv4=false --ipv6 n
    network create --config-only --subnet 10.0.0.0/8 n
    network create --config-from c --scope local n
    network create --driver macvlan -o parent=eth0 n
    network connect --ip 1.2.3.4 --alias a --link x:y --driver-opt a=b --gw-priority 5 --ip6 ::1 --link-local-ip 1.1.1.1 n c
    network disconnect -f n c
    network prune -f --filter until=1h
    volume create
    volume create -d local -o a=b -o c --label x=y v
    volume ls --filter dangling=1 -q
    volume rm -f v
    volume prune -f
    volume prune -af
    container prune -f --filter until=10m
    image prune -f
    image prune -af
    rm -fv x
    rm -l x
    rm /x
    kill -s 9 x
    stop -t 5 -s INT x
    restart x
    restart -t 1 -s HUP x y
    start x y
    pause x
    unpause x
    wait x
    rename a b
    update -m 5m --memory-swap -1 --cpus 1 --cpu-shares 5 --restart always --pids-limit 5 --blkio-weight 10 --cpu-period 5 --cpu-quota 6 --cpuset-cpus 0 --cpuset-mems 0 --memory-reservation 1m x
    top x
    top x -ef aux
    diff x
    port x
    logs x
    rmi -f a b
    rmi --no-prune a
    history a
    pull a b
    push -a a:b
    push localhost:5000/x
    search x
    search --limit 5 --filter stars=3 x
    events --since 1 --until 2 --filter a=b
    system df
    system df -v
    export x
    save x y
    import -c "CMD a" -m msg --platform linux/arm64 http://x n
    image inspect x
    volume inspect x
    container inspect -s x
    stats --no-stream x
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    """It takes whatever it is asked for and keeps it."""
    with FakeEngine() as fake:
        fake.answers.update(
            {
                ("POST", "/containers/create"): Answer(201, {"Id": "c" * 64, "Warnings": []}),
                ("POST", "/images/create"): Answer(200, {}),
                ("POST", "/networks/create"): Answer(201, {"Id": "n", "Warning": ""}),
                ("POST", "/volumes/create"): Answer(201, {"Name": "n"}),
                ("GET", "/containers/json"): [],
                ("GET", "/images/json"): [],
                ("GET", "/networks"): [],
                ("GET", "/volumes"): {"Volumes": []},
            }
        )
        yield fake


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("requests")
    (made / "docker").symlink_to(PORTSIDE)
    (made / "ENVFILE").write_text("# c\nA=1\nHOME\nB=x y\n\nNOSUCHVARIABLE\n")
    (made / "LABELS").write_text("l1=a\nl2\n#x\n")
    return made


def _meant(value: Any) -> Any:
    """Without what is empty, and so says nothing."""
    if isinstance(value, dict):
        kept = {name: _meant(item) for name, item in value.items()
                if name != "ConsoleSize" and (name, item) != ("MemorySwappiness", -1)}  # fmt: skip
        for name in {"Env", "Config"} & set(kept):  # docker sends them in any order
            if isinstance(kept[name], list):
                kept[name].sort(key=str)
        return {name: item for name, item in kept.items() if item not in (None, "", 0, [], {})}
    return [_meant(item) for item in value] if isinstance(value, list) else value


def _requests(engine: FakeEngine, program: str, line: str, directory: Path) -> list[Any]:
    engine.asked.clear()
    done = call(program, "-H", engine.host, *shlex.split(line), cwd=directory)
    sent = [
        (
            asked.method, asked.path, asked.query,
            _meant(asked.json) if asked.body[:1] == b"{" else asked.body,
        )
        for asked in engine.asked if asked.path != "/_ping"
    ]  # fmt: skip
    return [sent, done.returncode, done.stdout, done.stderr]


def _compare(engine: FakeEngine, docker: str, lines: list[str], directory: Path) -> None:
    wrong = []
    for line in lines:
        theirs = _requests(engine, docker, line, directory)
        ours = _requests(engine, str(directory / "docker"), line, directory)
        if theirs != ours:
            wrong.append(f"{line}\n  docker: {json.dumps(theirs, default=str)}\n"
                         f"  ours:   {json.dumps(ours, default=str)}")  # fmt: skip
    assert not wrong, "\n".join(wrong)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_create(engine: FakeEngine, docker_command: list[str], directory: Path) -> None:
    lines = [f"create {line}" for line in _lines(CREATE)]
    _compare(engine, docker_command[0], lines, directory)


def test_other_verbs(engine: FakeEngine, docker_command: list[str], directory: Path) -> None:
    _compare(engine, docker_command[0], _lines(OTHERS), directory)
