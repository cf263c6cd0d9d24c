# ruff: noqa: E501 - a line is a command line
"""Our command beside the real docker CLI: verbs of containers say and do the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import Pair


@pytest.fixture(scope="module")
def pair(
    engine: Any, docker: Any, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    made = Pair(docker_command[0], engine.host, tmp_path_factory.mktemp("pair"))
    yield made
    left = docker("ps", "-aq", "--filter", "name=ndocker", "--filter", "name=nours").stdout.split()
    if left:
        docker("rm", "-fv", *left)


RUNS = r"""
    run --rm portside/base echo hello
    run --rm portside/base sh -c "echo out; echo err >&2; exit 3"
    run --rm portside/base sh -c "kill -9 $$"
    run --rm portside/base sh -c "kill -TERM $$; sleep 1"
    run --rm portside/base nosuchcommand
    run --rm portside/base /etc
    run --rm portside/base /etc/passwd
    run --rm -w /nodir/deep portside/base pwd
    run --rm -i portside/base cat <<< hello
    run --rm -a stdout portside/base sh -c "echo out; echo err >&2"
    run --rm -a stderr portside/base sh -c "echo out; echo err >&2"
    run --rm -it portside/base true
    run --rm -t portside/base tty
    run --rm -e A=1 -e B= -e NOTSET portside/base sh -c "env | sort"
    run --rm -u 1:2 -w /tmp portside/base sh -c "id; pwd"
    run --rm -u nobodyhere portside/base true
    run --rm -h inside --domainname example portside/base hostname
    run --rm --entrypoint echo portside/base a b
    run --rm --entrypoint "" portside/base echo cleared
    run --rm --read-only portside/base touch /x
    run --rm --tmpfs /t:size=1m portside/base df -k /t
    run --rm --init portside/base ps -o pid,comm
    run --rm --ulimit nofile=1024:2048 portside/base sh -c "ulimit -n; ulimit -Hn"
    run --rm --ulimit nofile=100:50 portside/base true
    run --rm --ulimit bogus=1 portside/base true
    run --rm --cap-drop ALL --cap-add net_admin portside/base grep CapEff /proc/self/status
    run --rm --cap-add BOGUS portside/base true
    run --rm --privileged portside/base grep -E "CapEff|Seccomp:" /proc/self/status
    run --rm --security-opt no-new-privileges portside/base grep NoNewPrivs /proc/self/status
    run --rm --security-opt bogus=1 portside/base true
    run --rm --security-opt seccomp=/nosuch portside/base true
    run --rm --group-add 77 portside/base id -G
    run --rm --network none portside/base ls /sys/class/net
    run --rm --network container:nosuch portside/base true
    run --rm --network nosuchnet portside/base true
    run --rm --pid host portside/base true
    run --rm --ipc bogus portside/base true
    run --rm --uts bogus portside/base true
    run --rm --add-host a:1.2.3.4 portside/base grep 1.2.3.4 /etc/hosts
    run --rm --add-host a portside/base true
    run --rm --dns 9.9.9.9 --dns-search x.y --dns-option ndots:2 portside/base cat /etc/resolv.conf
    run --rm --dns bogus portside/base true
    run --rm --dns-opt ndots:2 --net none portside/base cat /etc/resolv.conf
    run --rm --net nosuch portside/base true
    run --rm --device nosuch portside/base true
    run --rm -v /tmp:/a -v /tmp:/a portside/base true
    run --rm --sysctl net.ipv4.ip_default_ttl=77 portside/base cat /proc/sys/net/ipv4/ip_default_ttl
    run --rm --sysctl kernel.bogus=1 portside/base true
    run --rm --shm-size 8m portside/base df -k /dev/shm
    run --rm --device /dev/zero:/dev/nought portside/base head -c 3 /dev/nought
    run --rm --device /dev/nosuch portside/base true
    run --rm --device /dev/zero:/dev/x:q portside/base true
    run --rm --mount type=tmpfs,dst=/m,tmpfs-size=1m portside/base df -k /m
    run --rm --mount type=bind,src=/nosuch,dst=/m portside/base true
    run --rm --mount type=bogus,dst=/m portside/base true
    run --rm -v relative portside/base ls -d /relative
    run --rm -v /nosuch:/x:bogus portside/base true
    run --rm -v "" portside/base true
    run --rm --stop-signal BOGUS portside/base true
    run --rm --gpus all portside/base true
    run --rm --runtime nosuch portside/base true
    run --rm --log-driver none portside/base echo shown
    run --rm --log-driver bogus portside/base true
    run --rm --log-opt bogus=1 portside/base true
    run --rm --platform linux/bogus/v9/x portside/base true
    run --rm --restart always portside/base true
    run --rm --restart bogus portside/base true
    run --rm --health-retries -1 portside/base true
    run --rm -m 1k portside/base true
    run --rm -m bogus portside/base true
    run --rm -m -5 portside/base true
    run --rm --memory 64m --memory-swap 32m portside/base true
    run --rm --memory-swappiness 101 portside/base true
    run --rm --cpus 1000 portside/base true
    run --rm --cpus x portside/base true
    run --rm --cpuset-cpus 999 portside/base true
    run --rm --cpu-shares x portside/base true
    run --rm --pids-limit x portside/base true
    run --rm --blkio-weight 5 portside/base true
    run --rm -p 99999:80 portside/base true
    run --rm -p x portside/base true
    run --rm --name "bad name" portside/base true
    run --rm --pull never nosuchimage:tag true
    run --rm --pull sometimes portside/base true
    run --rm UPPER/x true
    run --rm --env-file /nosuch portside/base true
    run --rm --cidfile /nosuch/x portside/base true
    run -d -a stdout portside/base true
    run --nosuchflag portside/base
    run -Z portside/base
    run --name
    run
    create
    create --cidfile /nosuch/x portside/base
"""


def test_run_with_every_kind_of_flag(pair: Pair) -> None:
    pair.all_same(RUNS)


def test_looking_at_a_container(pair: Pair) -> None:
    pair.all_same(r"""
        run -d --name {n}look -l role=front -p 127.0.0.1::80 --health-cmd true -v /data portside/base sleep 100
        run -d --name {n}look portside/base true
        ps --filter name={n}look --format "{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.LocalVolumes}} {{.Networks}}"
        ps --filter name={n}look --format "{{.Label \"role\"}} {{.Size}} {{.Platform}} {{.Labels}}"
        ps --filter name={n}look -s --format "table {{.Names}}\t{{.Size}}"
        ps --filter name={n}look --format raw -q
        ps --filter name={n}look -q --format "{{.Names}}"
        ps --filter name={n}look --format "table {{.Names}}\t{{.Label \"com.example.some-name\"}}"
        ps -q --filter name={n}look
        ps -aq --no-trunc --filter name={n}look
        ps --filter name={n}look --filter label=role=front --filter status=running -q
        ps --filter name={n}look --filter label=role=back
        ps --filter name={n}look --filter health=starting --filter health=healthy -q
        ps --filter name={n}look --filter publish=80 -q
        ps --filter name={n}look --filter expose=80 -q
        ps --filter name={n}look --filter ancestor=portside/base -q
        ps --filter name={n}look --filter network=bridge -q
        ps --filter name={n}look --filter volume=/data -q
        ps --filter name={n}look --filter is-task=false -q
        ps --filter name={n}look --filter since={n}look
        ps --filter before=nosuch
        ps --filter nosuch=1
        ps --filter bogus
        ps --filter status=bogus
        ps --filter exited=x
        ps --format "{{.ID"
        ps --format "{{nosuch}}"
        ps extra
        inspect --format "{{.Name}} {{.State.Status}} {{.HostConfig.RestartPolicy.Name}}" {n}look
        inspect -f "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}" {n}look
        inspect -f "{{json .Config.Labels}} {{json .HostConfig.Binds}} {{json .Config.Entrypoint}}" {n}look
        inspect -f "{{.SizeRw}} {{.SizeRootFs}} {{.State.Health.Status}}" {n}look
        inspect -s -f "{{.SizeRw}}" {n}look
        inspect -f "{{.Foo}}" {n}look nosuch
        inspect -f "{{.Foo" {n}look
        inspect -f "{{.Name}}" nosuch {n}look
        inspect nosuch
        inspect --type container nosuch
        inspect --type volume nosuch
        inspect --type ""
        inspect
        container inspect -f "{{.Name}}" {n}look
        container inspect nosuch
        port nosuch
        port {n}look 81
        port {n}look bogus
        top {n}look -o comm
        top nosuch
        top
        stats --no-stream --format "{{.Name}} {{.Container}} {{.PIDs}} {{.MemPerc}}" {n}look
        stats --no-stream nosuch
        diff {n}look
        exec {n}look sh -c "echo a >/new; mkdir /dir; rm /etc/group; echo x >>/etc/passwd"
        diff {n}look
        diff nosuch
        logs nosuch
        logs --since bogus {n}look
        logs --tail bogus {n}look
        events --since 1h --until 0s --filter container={n}look --filter event=start --format "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Scope}}"
        events --since bogus
        events --filter bogus
        events --format "{{.Nope"
        rm {n}look
        rm -fv {n}look
    """)


def test_a_life(pair: Pair) -> None:
    pair.all_same(r"""
        create --name {n}life --stop-timeout 1 portside/base sh -c "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"
        start {n}life
        start {n}life
        start {n}life nosuch
        pause {n}life
        pause {n}life
        ps --filter name={n}life --filter status=paused --format "{{.Status}}"
        exec {n}life true
        unpause {n}life
        unpause {n}life
        rename {n}life {n}new
        rename {n}new {n}new
        rename nosuch x
        rename {n}new "bad name"
        rename {n}new
        update --memory 64m --memory-swap 128m {n}new
        update --memory 1k {n}new
        update --restart on-failure:3 {n}new
        update --restart no {n}new
        update --cpus 0.5 --pids-limit 50 {n}new
        update --restart bogus {n}new
        update {n}new
        update --cpus 1 nosuch
        inspect -f "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}" {n}new
        kill -s BOGUS {n}new
        kill nosuch
        kill
        stop {n}new
        stop {n}new nosuch
        stop -t bogus {n}new
        wait {n}new
        wait nosuch
        ps -a --filter exited=5 --filter name={n}new --format "{{.Names}} {{.Status}}"
        ps -a --filter name={n}new --format raw
        ps -a --filter name={n}new --format raw -s
        inspect -f "{{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Error}} {{.State.Status}}" {n}new
        kill {n}new
        restart -t 0 {n}new
        restart nosuch
        kill -s KILL {n}new
        wait {n}new
        logs {n}new
        logs -n 1 {n}new
        logs --tail 0 {n}new
        logs -t {n}new
        logs -f {n}new
        start -a {n}new nosuch
        attach {n}new
        attach nosuch
        rm {n}new
        rm {n}new
        rm -f {n}new nosuch
        rm
    """)


def test_exec_and_attach(pair: Pair) -> None:
    pair.all_same(r"""
        run -d -i --name {n}exec portside/base sh -c "read line; echo got $line; exit 9"
        exec {n}exec echo hi
        exec {n}exec sh -c "echo out; echo err >&2; exit 7"
        exec -e X=y -e NOTSET -w /tmp -u 5:6 {n}exec sh -c "echo $X; pwd; id"
        exec -i {n}exec cat <<< typed
        exec -d {n}exec true
        exec -t {n}exec tty
        exec -it {n}exec true
        exec --privileged {n}exec grep CapEff /proc/self/status
        exec {n}exec nosuchcommand
        exec {n}exec /etc
        exec -w /nodir {n}exec true
        exec -u nobodyhere {n}exec true
        exec --env-file /nosuch {n}exec true
        exec nosuch true
        exec {n}exec
        attach {n}exec <<< line\n
        wait {n}exec
        exec {n}exec true
        rm {n}exec
        create -i --name {n}two portside/base sh -c "cat; exit 4"
        start -ai {n}two <<< again
        logs {n}two
        rm {n}two
    """)


def test_files_in_and_out(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("data")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/leaf").write_text("leaf")
    (tmp_path / "tree/link").symlink_to("sub/leaf")
    pair.all_same(rf"""
        create --name {{n}}files portside/base sh -c "find /in* /root /f* -type f -o -type l | sort"
        cp {tmp_path}/file {{n}}files:/f
        cp {tmp_path}/file {{n}}files:/root/
        cp {tmp_path}/tree {{n}}files:/in
        cp {tmp_path}/tree/. {{n}}files:/root
        cp {tmp_path}/tree/ {{n}}files:/in2
        cp {tmp_path}/file/ {{n}}files:/x
        cp -q {tmp_path}/file {{n}}files:/f2
        cp -a {tmp_path}/file {{n}}files:/f3
        cp -L {tmp_path}/tree/link {{n}}files:/f4
        cp {tmp_path}/nosuch {{n}}files:/x
        cp {tmp_path}/tree {{n}}files:/f
        cp {{n}}files:/nosuch {tmp_path}/x
        cp {{n}}files:/f {tmp_path}/no/such/
        cp {{n}}files:/f {tmp_path}/{{n}}out
        cp {{n}}files:/in {tmp_path}/{{n}}tree
        cp {{n}}files:/in/. {tmp_path}/{{n}}tree
        cp {{n}}files:/in/link {tmp_path}/{{n}}link
        cp -L {{n}}files:/in/link {tmp_path}/{{n}}leaf
        cp {{n}}files:/f {{n}}files:/g
        cp {tmp_path}/file {tmp_path}/other
        cp nosuch:/x {tmp_path}/y
        cp a
        start -a {{n}}files
        export -o {tmp_path}/{{n}}.tar {{n}}files
        export -o /no/such/dir {{n}}files
        export nosuch
        rm {{n}}files
    """)

    def tree(name: str) -> list[tuple[str, str]]:
        found = []
        for path in sorted(tmp_path.rglob(f"{name}*")):
            for inner in sorted([path, *path.rglob("*")]):
                kind = "link" if inner.is_symlink() else "dir" if inner.is_dir() else "file"
                if not inner.name.endswith(".tar"):
                    found.append((str(inner.relative_to(tmp_path)).removeprefix(name), kind))
        return found

    assert tree("nours") == tree("ndocker")
    assert (tmp_path / "noursout").read_text() == "data"
    assert (tmp_path / "noursleaf").read_text() == "leaf"
