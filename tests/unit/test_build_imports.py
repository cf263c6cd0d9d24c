"""The builder is imported by the first build, not by the engine's start."""

import subprocess
import sys


def test_the_engine_starts_without_the_builder() -> None:
    program = (
        "import sys; import portside.daemon.main, portside.engine.engine, portside.engine.usage;"
        "from portside.api import router, routes; routes.add_all(router.Router());"
        "late = ('portside.builder', 'grpclib', 'h2', 'google.protobuf');"
        "print([name for name in sys.modules if name.startswith(late)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
