# ruff: noqa: E501 - a line is a command line
"""Our command beside the real docker CLI: images, networks, volumes, the engine, contexts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from clikit import Pair, call
from imagekit import docker_registry, htpasswd_line


@pytest.fixture(scope="module")
def pair(
    engine: Any, docker: Any, docker_command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    made = Pair(docker_command[0], engine.host, tmp_path_factory.mktemp("pair"))
    yield made
    for kind in ("container", "network", "volume"):
        every = ("-a",) if kind == "container" else ()
        for name in ("ndocker", "nours"):
            filters = ("--filter", f"name={name}")
            for left in docker(kind, "ls", "-q", *every, *filters).stdout.split():
                docker(kind, "rm", "-f", left, check=False)


def test_images(pair: Pair, docker: Any) -> None:
    changes = ("USER 1:2", "EXPOSE 80 9/udp", "ENV A=b", 'ENTRYPOINT ["e"]', 'CMD ["c"]', "VOLUME /v",
               "WORKDIR /w", "LABEL b=c a=d", "STOPSIGNAL 9", "HEALTHCHECK --retries=3 CMD true",
               "ONBUILD RUN x")  # fmt: skip
    options = [word for change in changes for word in ("-c", change)]
    docker("import", *options, "-", "pair/full", input=b"\0" * 1024, text=False)
    pair.all_same(r"""
        pull portside/base
        pull -q portside/base
        pull UPPER
        pull -a portside/base:latest
        pull nosuch.invalid/x:y
        pull
        images portside/base
        images -q portside/base
        images --no-trunc portside/base
        images --digests portside/base
        images nosuch
        images --filter reference=portside/ba* --format "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"
        images --filter bogus=1
        images --format json portside/base
        images --format "table {{.ID}}\t{{.Repository}}" portside/base
        images --format "{{.Nope" portside/base
        image inspect -f "{{.ID}}" portside/base
        image inspect -f "{{.Id}} {{.Os}} {{.Architecture}} {{.Config.Cmd}} {{.RootFS.Layers}}" portside/base
        image inspect -f "{{json .Config}} {{json .Config.Env}} {{.Config.Labels}} {{.Author}}" portside/base
        image inspect -f "{{.Config.User}} {{json .Config.Volumes}} {{.Config.OnBuild}}" portside/base
        image inspect -f "{{json .Config}} {{.Config.StopSignal}}" pair/full
        image inspect portside/base
        image inspect nosuch
        history portside/base
        history -q portside/base
        history --no-trunc portside/base
        history -H=false -q portside/base
        history --format json portside/base
        history --format "{{.ID}} {{.CreatedBy}} {{.Size}}" portside/base
        history nosuch
        tag portside/base {n}/img:v1
        tag portside/base {n}/img
        tag nosuch x
        tag portside/base BAD
        tag portside/base
        images {n}/img
        rmi {n}/img:v1
        rmi {n}/img:v1
        rmi -f nosuch
        rmi nosuch {n}/img
        rmi
    """)
    docker("rmi", "pair/full")


def test_images_of_containers_and_archives(pair: Pair, tmp_path: Path) -> None:
    pair.all_same(rf"""
        run --name {{n}}src portside/base sh -c "echo 1 >/made; rm /etc/group"
        commit -m "a msg" -a me -c "ENV X=1" -c "CMD [\"cat\",\"/made\"]" {{n}}src {{n}}/com:1
        commit -c "BOGUS x" {{n}}src
        commit {{n}}src BAD
        commit nosuch
        run --rm {{n}}/com:1
        inspect -f "{{{{.Author}}}} {{{{.Comment}}}} {{{{.Config.Env}}}} {{{{.Config.Cmd}}}}" {{n}}/com:1
        history --format "{{{{.CreatedBy}}}} {{{{.Comment}}}}" {{n}}/com:1
        save -o {tmp_path}/{{n}}.tar {{n}}/com:1
        save -o /no/such/file {{n}}/com:1
        save -o /tmp {{n}}/com:1
        save nosuch
        save
        rmi {{n}}/com:1
        load -i {tmp_path}/{{n}}.tar
        load -q -i {tmp_path}/{{n}}.tar
        load -i /nosuch
        load <<< garbage
        rmi {{n}}/com:1
        export -o {tmp_path}/{{n}}fs.tar {{n}}src
        import -c "CMD [\"cat\",\"/made\"]" -m msg {tmp_path}/{{n}}fs.tar {{n}}/imp:2
        run --rm {{n}}/imp:2
        import -c "BOGUS x" {tmp_path}/{{n}}fs.tar
        import /nosuch/file
        rmi {{n}}/imp:2
        rm {{n}}src
    """)


def test_networks(pair: Pair) -> None:
    pair.all_same(r"""
        network ls --filter name=bridge
        network ls -q --filter driver=null
        network ls --filter bogus=x
        network ls --filter name=host --format json
        network ls --no-trunc --filter name=none
        network create {n}net --label a=b --internal -o com.docker.network.driver.mtu=1400
        network create {n}net
        network create --subnet bogus {n}net3
        network create -d nosuch {n}net3
        network create --gateway 10.1.1.1 {n}net3
        network create --aux-address a=10.1.1.1 {n}net3
        network create --aux-address a {n}net3
        network create --subnet 10.1.0.0/24 --gateway 10.1.0.1 --gateway 10.1.0.2 {n}net3
        network create --subnet 10.0.0.0/24 --subnet 10.0.0.0/16 {n}net3
        network create
        network ls --filter label=a=b --filter name={n} --format "{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}} {{.IPv6}} {{.Label \"a\"}}"
        network inspect {n}net -f "{{.Name}} {{.Driver}} {{.Labels}} {{.Internal}} {{.Options}} {{.Peers}}"
        network inspect nosuch
        network connect {n}net nosuch
        run -d --name {n}c portside/base sleep 50
        network connect --alias web {n}net {n}c
        network connect {n}net {n}c
        network connect nosuch {n}c
        network connect --driver-opt bogus {n}net {n}c
        inspect -f "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}" {n}c
        ps --filter network={n}net --format "{{.Names}}"
        network disconnect {n}net {n}c
        network disconnect {n}net {n}c
        network disconnect -f {n}net nosuch
        network rm -f nosuch
        network rm {n}net
        rm -f {n}c
    """)


def test_networks_that_cannot_be_removed(pair: Pair) -> None:
    """The docker CLI adds a line ``exit status 1``, which tells nobody anything."""
    for line in ("network rm bridge", "network rm nosuch"):
        theirs, ours = pair.run(line)
        assert theirs.err == ours.err + "exit status 1\n"
        assert (theirs.status, theirs.out) == (ours.status, ours.out)


def test_volumes(pair: Pair) -> None:
    pair.all_same(r"""
        volume create {n}v
        volume create {n}v
        volume create --label a=b --opt type=tmpfs --opt device=tmpfs {n}v2
        volume create "bad name"
        volume create -d nosuch {n}v3
        volume create --opt bogus=1 {n}v3
        volume ls -q --filter name={n}
        volume ls --filter dangling=true --filter name={n}
        volume ls --filter label=a=b --filter name={n} -q
        volume ls --filter bogus=1
        volume ls --format "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}} {{.Mountpoint}}" --filter name={n}
        volume ls --format json --filter name={n}
        volume inspect {n}v -f "{{.Name}} {{.Driver}} {{.Scope}} {{.Options}} {{.Labels}} {{.Status}}"
        volume inspect {n}v nosuch -f "{{.Name}}"
        run --rm -v {n}v:/data portside/base sh -c "echo 1 >/data/f; ls /data"
        run -d --name {n}vc -v {n}v:/data portside/base sleep 50
        ps --filter volume={n}v --format "{{.Names}} {{.Mounts}} {{.LocalVolumes}}"
        volume rm {n}v
        rm -f {n}vc
        volume rm {n}v
        volume rm {n}v
        volume rm -f {n}v
        volume rm {n}v2 nosuch
    """)


def test_the_engine(pair: Pair, docker: Any) -> None:
    docker("image", "prune", "-f")  # what is pruned by the first is not there for the second
    pair.all_same(r"""
        version --format "{{.Server.Version}} {{.Server.Os}} {{.Client.Os}} {{.Server.MinAPIVersion}}"
        version --format "{{.Client.DefaultAPIVersion | len}} {{.Server.APIVersion}}"
        version extra
        info --format "{{.ID}} {{.Driver}} {{.CgroupVersion}} {{.OperatingSystem}} {{.NCPU}} {{json .Runtimes}}"
        system df
        system df --format "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}"
        system df --format json
        system df -v
        search nosuch.invalid/x
        system prune <<< "n\n"
        system prune -a --volumes <<< "no\n"
        system prune --filter until=1h <<< "n\n"
        container prune <<< "n\n"
        container prune -f --filter bogus=x
        image prune <<< "n\n"
        image prune -a <<< "\n"
        image prune -f --filter until=1h
        network prune <<< "n\n"
        volume prune <<< "n\n"
        volume prune -a <<< "n\n"
        nosuchverb
        container nosuch
        --nosuchflag ps
        -H bogus://x ps
        -H unix:///nonexistent ps
        -H unix:///nonexistent run --rm x
        -H tcp://127.0.0.1:1 ps
        -c nosuch ps
        -H unix:///a -H unix:///b ps
        -H unix:///a -c nosuch ps
        -l loud ps
        --tlsverify --tlscacert /nonexistent -H tcp://127.0.0.1:1 ps
        help nosuch
        inspect ""
        rm ""
        volume rm ""
        stop ""
        network inspect ""
        run ""
        run UPPER
        login -u u -p p --password-stdin 127.0.0.1:1
        system prune -f --volumes --filter until=1h
        images --format raw portside/base
        volume ls --format raw
        network ls --format raw
    """)
    env = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/nonexistent"}
    with patch.dict(pair.env, env):
        pair.same("-H tcp://127.0.0.1:1 ps")


def test_prune(pair: Pair, docker: Any) -> None:
    for number, _ in enumerate(pair.programs):
        docker("create", "--name", f"left{number}", "-l", f"of={number}", "portside/base")
        said = pair.one(number, f"container prune -f --filter label=of={number}")
        assert (said.status, said.err) == (0, "")
        assert said.out == "Deleted Containers:\n<ID>\n\nTotal reclaimed space: 0B\n"
        docker("create", "--name", f"left{number}", "-l", f"of={number}", "portside/base")
        said = pair.one(number, f"system prune --filter label=of={number}", "y\n")
        assert "Deleted Containers:\n<ID>\n\n" in said.out
        assert re.search(r"Total reclaimed space: [0-9.]+[kM]?B\n$", said.out)


def test_contexts(pair: Pair) -> None:
    pair.all_same(r"""
        context show
        context inspect
        context ls
        context use nosuch
        context rm nosuch
        context inspect nosuch
        context create bad/name
        context create default
        context rm default
    """)
    # Both write the same files, so each is asked about what the other has made.
    assert pair.one(1, "context create made --docker host=tcp://1.2.3.4:2375 --description d").err
    theirs, ours = pair.run("context inspect made")
    assert json.loads(theirs.out) == json.loads(ours.out)
    pair.all_same(r"""
        context ls
        context ls -q
        context inspect made -f "{{.Name}} {{.Endpoints.docker.Host}}"
        context create made
        context use made
        context use default
    """)
    made_by_theirs, made_by_ours = pair.run("context export made {n}.file")
    assert made_by_ours == made_by_theirs
    for number, file in enumerate(("nours.file", "ndocker.file")):
        said = pair.one(number, f"context import again{number} {file}")
        assert (said.status, said.out) == (0, f"again{number}\n")
        said = pair.one(1 - number, f"context inspect again{number}")
        assert '"Host": "tcp://1.2.3.4:2375"' in said.out
        assert pair.one(number, f"context rm again{number}").status == 0
    assert pair.one(0, "context rm made").out == "made\n"
    assert "made" not in pair.one(1, "context ls -q").out


def test_the_registry_verbs(pair: Pair, tmp_path: Path) -> None:
    with docker_registry(tmp_path) as host:
        for words in ("tag portside/base", "push", "rmi"):
            assert pair.one(1, f"{words} {host}/some/image:v1").status == 0
        pair.all_same(rf"""
            pull {host}/nosuch:v1
            pull -q {host}/some/image:v1
            pull {host}/some/image:nosuch
            pull {host}/nosuch
            tag {host}/some/image:v1 {host}/{{n}}:v2
            push {host}/{{n}}
            push -q {host}/{{n}}:v2
            push -a {host}/{{n}}:v2
            rmi {host}/{{n}}:v2
            images --digests {host}/some/image
            login -u someone
            login 127.0.0.1:1
            login --password-stdin 127.0.0.1:1 <<< secret
            logout 127.0.0.1:1
            logout
        """)
        pair.one(1, f"rmi {host}/some/image:v1")


def test_credentials_are_shared(pair: Pair, tmp_path: Path) -> None:
    """What one command has stored the other uses."""
    with docker_registry(tmp_path, htpasswd=htpasswd_line("me", "secret")) as host:
        refused = pair.run(f"login -u me -p wrong {host}")
        assert [said.status for said in refused] == [1, 1]
        done = call(str(pair.link), "login", "-u", "me", "--password-stdin", host,
                    env=pair.env, input="secret\n")  # fmt: skip
        assert done.stdout == "Login Succeeded\n", done
        assert "stored unencrypted" in done.stderr
        file = pair.directory / "config/config.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert host in json.loads(file.read_text())["auths"]
        for number in (0, 1):
            pair.one(number, f"tag portside/base {host}/{{n}}:v")
            assert pair.one(number, f"push {host}/{{n}}:v").status == 0
            assert pair.one(number, f"rmi {host}/{{n}}:v").status == 0
        assert pair.one(0, f"logout {host}").status == 0
        assert pair.one(1, f"pull {host}/nours:v").status == 1
