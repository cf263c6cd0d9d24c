"""What builds import, and when."""

import subprocess
import sys
from pathlib import Path

import portside


def test_the_engine_starts_without_the_builder() -> None:
    program = (
        "import sys; import portside.daemon.main, portside.engine.engine, portside.engine.usage;"
        "from portside.api import router, routes; routes.add_all(router.Router());"
        "late = ('portside.builder', 'grpclib', 'h2', 'google.protobuf');"
        "print([name for name in sys.modules if name.startswith(late)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_command_imports_no_slow_modules(tmp_path: Path) -> None:
    """`portside build` up to its request: what takes long is not among it."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    slow = {"typing", "dataclasses", "inspect", "hashlib", "msgspec", "subprocess", "uuid", "json"}
    source = Path(portside.__file__).parents[1]
    text = (
        f"import sys; sys.path[:0] = [{str(source)!r}]\n"
        "from portside.cli.main import main\n"
        "status = main(['portside', '-H', 'unix:///missing', 'build', '-t', 'a:b', '.'])\n"
        f"print(status, sorted({slow!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], cwd=tmp_path,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "1 []\n", done.stderr
