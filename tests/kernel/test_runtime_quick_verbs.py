"""The script that starts the runtime: what it does itself, and how it protects the interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundlekit import SOURCE, Bundles, bundles
from runtimekit import is_root

from portside.kernel.cgroup import Cgroup

pytestmark = pytest.mark.skipif(not is_root(), reason="containers need root here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundles]:
    with bundles(tmp_path_factory.mktemp("quick")) as found:
        yield found


def _installed(place: Path, python: str) -> list[str]:
    """The script as an environment of a checkout has it, with an interpreter of ours."""
    (place / "e/bin").mkdir(parents=True)
    (place / "src").symlink_to(SOURCE)
    script = place / "e/bin/portside-runtime"
    shutil.copy(SOURCE.parent / "scripts/portside-runtime", script)
    (place / "e/bin/python3").write_text(python)
    (place / "e/bin/python3").chmod(0o755)
    return [str(script)]


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    """An interpreter that only says that it was called."""
    return _installed(tmp_path, "#!/bin/sh\necho PYTHON >&2\nexit 99\n")


@pytest.fixture
def whole(tmp_path: Path) -> list[str]:
    """The interpreter that runs the tests."""
    command = _installed(tmp_path, "")
    (tmp_path / "e/bin/python3").unlink()
    (tmp_path / "e/bin/python3").symlink_to(sys.executable)
    return command


def _gone(pid: int) -> None:
    """Wait for a process's end; a zombie that waits for its parent has ended."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "ZX":
                    return
        except (FileNotFoundError, ProcessLookupError):
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("forced", [[], ["-f"], ["--force"]])
def test_plain_verbs_need_no_interpreter(
    made: Bundles, quick: list[str], forced: list[str]
) -> None:
    name = made.create("sh", "-c", "echo ran > /ran")
    created = made.state(name)
    started = made.call("--log-format", "json", "start", name, runtime=quick)
    assert (started.returncode, started.stderr) == (0, "")
    _gone(created["pid"])
    assert (made.rootfs / "ran").read_text() == "ran\n"
    group = json.loads((made.root / name / "state.json").read_text())["cgroup"]
    assert Cgroup(group).exists()
    deleted = made.call("delete", *forced, name, runtime=quick)
    assert (deleted.returncode, deleted.stderr) == (0, "")
    assert not (made.root / name).exists() and not Cgroup(group).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", "none"), ("delete", "none"), ("delete", "-f", "none"), ("start", "../x"),
        ("start",), ("start", "a", "b"), ("delete", "--all", "x"), ("start", "--help"),
        ("--log-format", "xml", "start", "x"), ("--log-format",), ("state", "x"), (),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_program(
    made: Bundles, quick: list[str], arguments: tuple[str, ...]
) -> None:
    done = made.call(*arguments, runtime=quick)
    assert (done.returncode, done.stderr) == (99, "PYTHON\n")


def test_a_container_that_lives_is_left_to_the_program(made: Bundles, quick: list[str]) -> None:
    name = made.create("sleep", "100")
    assert made.call("delete", name, runtime=quick).returncode == 99
    assert made.call("pause", name).returncode == 0
    assert made.call("start", name, runtime=quick).returncode == 99
    assert made.call("resume", name).returncode == 0
    assert made.call("start", name, runtime=quick).returncode == 0
    made.until(name, "running")
    assert made.call("start", name, runtime=quick).returncode == 99
    assert made.call("delete", "-f", name, runtime=quick).returncode == 99
    assert "cannot start an already running container" in made.call("start", name).stderr
    assert made.call("delete", "-f", name).returncode == 0


def test_hooks_are_left_to_the_program(made: Bundles, quick: list[str]) -> None:
    place = made.directory / "poststop"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"echo ran > {place}"]}
    name = made.create("true", config={"hooks": {"poststop": [hook]}})
    assert made.call("start", name, runtime=quick).returncode == 99
    assert made.call("start", name).returncode == 0
    made.until(name, "stopped")
    assert made.call("delete", name, runtime=quick).returncode == 99
    assert made.call("delete", name).returncode == 0
    assert place.read_text() == "ran\n"


def test_one_error_whoever_starts_it(made: Bundles, whole: list[str]) -> None:
    """What only execve(2) finds: by the script, and by the program alone."""
    program = made.rootfs / "bin/wrong-format"
    program.write_bytes(b"\x7fELF nothing of the kind")
    program.chmod(0o755)
    errors = []
    for runtime in (whole, None):
        name = made.create("/bin/wrong-format")
        done = made.call("start", name, runtime=runtime)
        assert done.returncode == 1
        errors.append(done.stderr.partition("level=error")[2])
        assert made.call("delete", "-f", name).returncode == 0
    assert errors[0] == errors[1] and "exec format error" in errors[0]


def test_nobody_can_write_to_the_interpreter(made: Bundles, whole: list[str]) -> None:
    """It is seen as /proc/PID/exe by who may trace it, until the command is executed."""
    place = made.directory / "namespace"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"readlink /proc/self/ns/mnt > {place}; pwd"]}
    bundle = made.bundle("true", config={"hooks": {"createRuntime": [hook]}})
    name = made.name()
    done = made.call("create", "-b", ".", name, runtime=whole, cwd=bundle)
    assert done.returncode == 0, done.stderr
    exe = f"/proc/{made.state(name)['pid']}/exe"
    sealed = os.readlink(exe).startswith("/memfd:")
    assert sealed or os.statvfs(exe).f_flag & os.ST_RDONLY
    assert place.read_text().strip() == os.readlink("/proc/self/ns/mnt")  # the caller's own
    assert made.state(name)["bundle"] == str(bundle)


def test_a_whole_life_from_another_root(made: Bundles, whole: list[str]) -> None:
    """The caller's root directory is kept, which joining a mount namespace changes."""
    above = made.directory / "root"
    above.mkdir()
    script = (
        f"mount --rbind / {above} && chroot {above} /bin/sh -c '"
        f"cd {made.bundle('echo', 'it ran')} && {whole[0]} --root {made.root} run {made.name()}'"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("it ran\n", 0), done.stderr


def test_modules_are_read_from_one_file_as_long_as_it_is_true(tmp_path: Path) -> None:
    """Bytecode of the modules that a process has imported, until a source is changed."""
    package = tmp_path / "portside"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE / "portside/runtime/oci", package / "runtime/oci", ignore=ignore)
    for above in ("", "runtime"):
        shutil.copy(SOURCE / "portside/__init__.py", package / above / "__init__.py")
    (package / "runtime/oci/__pycache__").mkdir(exist_ok=True)
    make = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['portside.extra'] = None\n"
        "from portside.runtime.oci import combined_modules as c; c._LATER = ()\n"
        "import portside.runtime.oci.light; c.make(sys.argv[1] + '/portside')\n"
    )
    use = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from portside.runtime.oci import combined_modules as c\n"
        "used = c.use(sys.argv[1] + '/portside')\n"
        "import portside.runtime.oci.light as m; print(used, m.value, m.__file__)\n"
    )
    module = package / "runtime/oci/light.py"

    def call(code: str) -> str:
        words = [sys.executable, "-I", "-S", "-c", code, str(tmp_path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    module.write_text("value = 1\n")
    assert call(use) == f"False 1 {module}\n"
    call(make)
    assert call(use) == f"True 1 {module}\n"
    module.write_text("value = 2  # another\n")
    assert call(use) == f"False 2 {module}\n"
    call(make)
    assert call(use) == f"True 2 {module}\n"
    [file] = (package / "runtime/oci/__pycache__").glob("combined.*")
    file.write_bytes(file.read_bytes()[:500])
    assert call(use) == f"False 2 {module}\n"


def test_a_verbs_modules_are_executed_from_its_file_in_the_order_of_a_start(tmp_path: Path) -> None:
    """A package that imports its own module, and modules that import each other's names."""
    package = tmp_path / "portside"
    oci = package / "runtime/oci"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE / "portside/runtime/oci", oci, ignore=ignore)
    for above in ("", "runtime"):
        shutil.copy(SOURCE / "portside/__init__.py", package / above / "__init__.py")
    (oci / "__pycache__").mkdir(exist_ok=True)
    (oci / "group").mkdir()
    (oci / "group/__init__.py").write_text("from portside.runtime.oci.group.part import VALUE\n")
    (oci / "group/part.py").write_text("VALUE = 1\n")
    (oci / "verb.py").write_text(
        "from portside.runtime.oci import group\n"
        "from portside.runtime.oci.group import part\n"
        "found = (group.VALUE, part.VALUE, __name__, __package__)\n"
    )
    (oci / "later.py").write_text("VALUE = 3\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); package = sys.argv[1] + '/portside'\n"
        "from portside.runtime.oci import combined_modules as c\n"
        "c.LAST = {'create': 'portside.runtime.oci.verb'}; c._OTHERS = ()\n"
        "used = c.use(package, 'create')\n"
        "ready = 'portside.runtime.oci.verb' in sys.modules\n"
        "from portside.runtime.oci import verb, later\n"
        "if not used: c.make(package, 'create')\n"
        "print(used, ready, *verb.found, later.VALUE)\n"
    )

    def call() -> str:
        words = [sys.executable, "-I", "-S", "-c", code, str(tmp_path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    names = "portside.runtime.oci.verb portside.runtime.oci 3\n"
    assert call() == f"False False 1 1 {names}"
    assert call() == f"True True 1 1 {names}"
    (oci / "group/part.py").write_text("VALUE = 2  # another\n")
    assert call() == f"False False 2 2 {names}"
    assert call() == f"True True 2 2 {names}"
