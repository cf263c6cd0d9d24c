"""An ordinary user's engine, from the first command to an empty machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.rootlesskit import OpenTun, RootlessUser, refuse_reason

pytestmark = pytest.mark.skipif(bool(refuse_reason()), reason=refuse_reason())


@pytest.fixture(scope="module")
def user() -> Iterator[RootlessUser]:
    with OpenTun():
        made = RootlessUser()
        try:
            made.portside("run", "--rm", "portside/base", "true")
            yield made
        finally:
            made.close()


def test_the_first_command_starts_an_engine_and_says_hello() -> None:
    with OpenTun():
        user = RootlessUser()
        try:
            done = user.portside("run", "--rm", "portside/base", "echo", "hello")
            assert done.stdout == "hello\n"
            assert "starting one in the background" in done.stderr
            assert user.socket.is_socket()
            assert (user.data_root / "metadata.db").exists()
            again = user.portside("run", "--rm", "portside/base", "echo", "hello")
            assert (again.stdout, again.stderr) == ("hello\n", "")
            user.portside("daemon", "stop")
            assert user.until_quiet() == []
            assert sorted(path.name for path in user.exec_root.iterdir()) == [
                "containers", "keeper.lock", "start.lock",
            ]  # fmt: skip
        finally:
            user.close()


def test_root_inside_is_the_user_outside(user: RootlessUser) -> None:
    done = user.docker("run", "--rm", "portside/base", "cat", "/proc/self/uid_map")
    assert done.stdout.split()[:3] == ["0", str(user.uid), "1"]
    assert done.stdout.split()[3:5] == ["1", str(user.subordinates[0][0])]


def test_files_in_a_bind_mount_belong_to_the_user(user: RootlessUser) -> None:
    place = user.home / "shared"
    user.call("mkdir", str(place))
    user.docker(
        "run", "--rm", "-v", f"{place}:/s", "portside/base", "sh", "-c",
        "echo x >/s/root; echo y >/s/other; chown 7:7 /s/other",
    )  # fmt: skip
    assert (place / "root").stat().st_uid == user.uid
    assert (place / "other").stat().st_uid == user.subordinates[0][6]


def test_default_endpoint_and_context(user: RootlessUser) -> None:
    done = user.portside("context", "inspect", "default")
    assert json.loads(done.stdout)[0]["Endpoints"]["docker"]["Host"] == user.host


def test_what_info_says(user: RootlessUser) -> None:
    found = json.loads(user.docker("info", "--format", "{{json .}}").stdout)
    assert "name=rootless" in found["SecurityOptions"]
    assert found["DockerRootDir"] == str(user.data_root)
