"""What `portside compose` imports: modules that take long are not among it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SLOW = {
    "typing", "dataclasses", "inspect", "hashlib", "_hashlib", "json", "difflib", "ipaddress",
    "datetime", "yaml.constructor", "yaml.scanner", "yaml.resolver", "http.client", "asyncio",
    "logging", "tempfile", "subprocess", "tarfile", "shutil",
}  # fmt: skip
ROOT = Path(__file__).parents[2]


def test_a_project_is_loaded_without_slow_modules(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: base, ports: ['80:80']}}\n")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    text = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {packages!r}]\n"
        "from portside.cli.compose import compose_verbs\n"
        "from portside.cli.main import main\n"
        "for verb in ('up', 'ps', 'config', 'down', 'logs'): compose_verbs.load(verb)\n"
        "main(['portside', 'compose', 'config', '--hash', '*'])\n"
        f"print(sorted({SLOW!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], cwd=tmp_path,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith("a ")
    assert done.stderr.strip() == "[]"


def test_yaml_can_be_imported_afterwards(tmp_path: Path) -> None:
    """Others get the whole package."""
    text = (
        "import sys; from portside.compose.yaml_source import documents\n"
        "assert 'yaml' not in sys.modules\n"
        "import yaml; print(yaml.safe_load('a: 2020-01-01'))\n"
        "print(yaml.CSafeLoader('a: b').get_data())\n"
        "print(next(documents(b'a: 08', 'f')).tree)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert "2020" in done.stdout and "{'a': 'b'}" in done.stdout and "{'a': 8.0}" in done.stdout
