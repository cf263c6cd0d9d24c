"""Log drivers without a container: tags by Go templates, exact bytes, the size of files."""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path

import pytest

from portside.containers.container import Record
from portside.containers.log_config import check_log_config, render_tag
from portside.containers.log_reader import Entry, open_generations
from portside.model.container import ContainerConfig, HostConfig
from portside.model.container import LogConfig as WantedLog
from portside.model.errors import InvalidParameter, SystemFailure
from portside.runtime.logs import JsonFile, Local
from portside.runtime.messages import LogConfig

ID = "ab" * 32
IMAGE = "sha256:" + "cd" * 32
RECORD = Record(
    id=ID, name="lg", created_ns=1_700_000_000_629_596_776, image="bb", image_id=IMAGE,
    config=ContainerConfig(
        image="bb", cmd=("sh", "-c", "echo hi"), env=("FOO=bar", "PATH=/bin"), labels={"lab": "val"}
    ),
    host=HostConfig(log_config=WantedLog(type="json-file", config={"env": "FOO"})),
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "tag"),
    [  # as dockerd 28.5.2 answers
        ("{{.Name}}", "lg"),
        ("{{(.ExtraAttributes nil).FOO}}", "bar"),
        ('{{ .ImageName | printf "%q" }}', '"bb"'),
        ("{{.Command}}", "sh -c echo hi"),
        ("{{.ImageID}} {{.ImageFullID}}", f"sha256:cdcdc {IMAGE}"),
        ("{{range $k,$v := .ContainerLabels}}{{$k}}={{$v}}{{end}}", "lab=val"),
        ("{{.ContainerCreated}}", "2023-11-14 22:13:20.629596776 +0000 UTC"),
        ("{{.ContainerEnv}}", "[FOO=bar PATH=/bin]"),
        ("{{.Config}}", "map[env:FOO]"),
        ("{{.ContainerEntrypoint}} {{.ContainerArgs}}", "sh [-c echo hi]"),
        ("{{.ContainerName}} {{.ContainerID}} {{.ID}} {{.FullID}}", f"/lg {ID} {ID[:12]} {ID}"),
        ('{{upper "x"}} {{join (split "a,b" ",") "-"}} {{json .Name}}', 'X a-b "lg"'),
        ("{{.LogPath}}", "/log"),
    ],
)
def test_tags_are_go_templates(template: str, tag: str) -> None:
    assert render_tag(template, RECORD, "/log", {"FOO": "bar"}) == tag


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{{.FullID}}/{{.Bogus}}",
            'template: log-tag:1:14: executing "log-tag" at <.Bogus>: '
            "can't evaluate field Bogus in type *logger.Info",
        ),
        ("{{", "template: log-tag:1: unclosed action"),
    ],
)
def test_bad_tags_are_reported_as_dockerd_does(template: str, words: str) -> None:
    with pytest.raises(SystemFailure) as caught:
        render_tag(template, RECORD, "", {})
    assert str(caught.value) == (
        "failed to create task for container: failed to initialize logging driver: " + words
    )


def entries(path: Path) -> list[Entry]:
    data = b""
    for number in range(50, 0, -1):
        for name in (Path(f"{path}.{number}"), Path(f"{path}.{number}.gz")):
            if name.exists():
                text = name.read_bytes()
                data += gzip.decompress(text) if name.suffix == ".gz" else text
    data += path.read_bytes()
    import msgspec

    return [msgspec.json.decode(line, type=Entry) for line in data.splitlines()]


def test_local_is_exact_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written = bytes(range(256)) + b"\n\xff\xfe\n" + "für\n".encode() + os.urandom(50_000) + b"\nend"
    log = Local(LogConfig("local", str(path)))
    for start in range(0, len(written), 4096):
        log.write("stdout", written[start : start + 4096])
    log.finish()
    assert b"".join(each.raw or each.log.encode() for each in entries(path)) == written


def test_json_file_says_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = JsonFile(LogConfig("json-file", str(path)))
    log.write("stdout", b"a\xffb\n")
    line = json.loads(path.read_bytes())
    assert (line["log"], "raw" in line) == ("a\ufffdb\n", False), "as dockerd's"
    assert base64.b64encode(b"a\xffb\n") not in path.read_bytes()


@pytest.mark.parametrize("batch", [1, 1000])
def test_max_size_holds_for_each_file(tmp_path: Path, batch: int) -> None:
    path = tmp_path / "log"
    options = {"max-size": "10k", "max-file": "40"}
    log = JsonFile(LogConfig("json-file", str(path), options))
    lines = [b"line %d\n" % number for number in range(2000)]
    for start in range(0, len(lines), batch):
        log.write("stdout", b"".join(lines[start : start + batch]))
    log.finish()
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) > 10
    assert max(sizes) < 10_240 + 200, "a file ends with the record that fills it"
    assert [each.log.encode() for each in entries(path)] == lines


@pytest.mark.parametrize("driver", [JsonFile, Local])
def test_files_of_equal_lines_are_distinguished(tmp_path: Path, driver: type[JsonFile]) -> None:
    """All come at once, so that all have one time; readers know a file by its first record."""
    options = {"max-size": "4k", "max-file": "100", "compress": "false"}
    writer = driver(LogConfig(driver="", path=str(tmp_path / "log"), options=options))
    writer.write("stdout", b'"time":"now"}\n' * 1000)
    writer.finish()
    generations = open_generations(tmp_path / "log")
    assert len(generations) == len(list(tmp_path.iterdir())) > 10
    lines = [line for each in generations for lines in each.lines() for line in lines if line]
    assert [json.loads(line)["log"] for line in lines] == ['"time":"now"}\n'] * 1000
    assert len({generation.first for generation in generations}) == len(generations)
    for generation in generations:
        generation.close()


@pytest.mark.parametrize("gap", range(5))
def test_a_rotation_under_way_hides_no_older_file(tmp_path: Path, gap: int) -> None:
    """A name is missing at each step: what it named is under the next one already."""
    numbers = [number if number < gap else number + 1 for number in range(5)]
    for number in numbers:
        name = f"log.{number}" if number else "log"
        (tmp_path / name).write_text(f'{{"log": "{number}\\n", "time": "{number}"}}\n')
    generations = open_generations(tmp_path / "log")
    found = [json.loads(generation.first)["time"] for generation in generations]
    for generation in generations:
        generation.close()
    assert found == [str(number) for number in numbers]


@pytest.mark.parametrize("driver", ["splunk", "awslogs", "bogus"])
def test_a_driver_that_is_not_there(driver: str) -> None:
    """dockerd's words for an unknown driver; of its own ones also which to use instead."""
    with pytest.raises(InvalidParameter) as caught:
        check_log_config(WantedLog(type=driver, config={}))
    words = f'error looking up logging plugin {driver}: plugin "{driver}" not found'
    assert str(caught.value).startswith(words)
    assert ("use one of" in str(caught.value)) == (driver != "bogus")
