"""Compose files as projects: what they mean, how they are printed, what is refused and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portside.cli import references
from portside.compose import config_output, dotenv, loading, service_images
from portside.compose.actions import Actions
from portside.compose.compose_errors import ComposeError, InvalidFile
from portside.compose.converge import add_starts
from portside.compose.interpolation import InvalidTemplate, MissingVariable, substitute
from portside.compose.observed import Container
from portside.compose.project import Project
from portside.compose.project_loading import Request, load
from portside.compose.step_plan import Plan
from portside.compose.yaml_source import documents, plain
from portside.model.errors import NotFound, PortsideError


def project(folder: Path, text: str, **more: Any) -> Project:
    (folder / "compose.yaml").write_text(text)
    more.setdefault("environment", {})
    return load(Request(files=[str(folder / "compose.yaml")], **more))


def config(folder: Path, text: str, **more: Any) -> Any:
    return config_output.encoded(project(folder, text, **more), True)


# -- scalars and variables ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("true", True), ("~", None), ("", None), ("12", 12),
        ("0x1f", 31), ("0o17", 15), ("0777", 511), ("1_000", 1000), ("1.5", 1.5), ("1e3", 1000.0),
        ("22:22", "22:22"), ("1.2.3", "1.2.3"), ("-", "-"), (".", "."), ("+", "+"),
        ("0x", "0x"), ("0b_", "0b_"), ("-0o_", "-0o_"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: Any) -> None:
    assert plain(text) == value
    assert type(plain(text)) is type(value)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("$A", "1"), ("${A}", "1"), ("$$A", "$A"), ("${E:-d}", "d"), ("${E-d}", ""),
        ("${X:-d}", "d"), ("${X-${A}}", "1"), ("${X:-${Y:-z}}}", "z}"), ("${A:+p}", "p"),
        ("${E:+p}", ""), ("${E+p}", "p"), ("${A:?no}", "1"), ("${E?no}", ""),
        ("cost 5$", "cost 5$"),
        ('${X:-{"a":1}}', '{"a":1}'), ("a${A}b${A}", "a1b1"),
    ],
)  # fmt: skip
def test_variables(template: str, value: str) -> None:
    assert substitute(template, {"A": "1", "E": ""}.get) == value


def test_variables_that_are_wrong() -> None:
    for template in ("${", "${A", "${1}", "${}", "${A!}"):
        with pytest.raises(InvalidTemplate):
            substitute(template, {"A": "1"}.get)
    with pytest.raises(MissingVariable, match="required variable X is missing a value: why 1"):
        substitute("${X:?why ${A}}", {"A": "1"}.get)


def test_text_that_is_not_used_is_read_all_the_same() -> None:
    warnings: list[str] = []
    assert substitute("a${X:+:$X}${A:-$Y}", {"A": "1"}.get, warnings.append) == "a1"
    assert [text.split('"')[1] for text in warnings] == ["X", "Y"]
    with pytest.raises(MissingVariable):
        substitute("${A:-${X:?no}}", {"A": "1"}.get)


@given(st.text(alphabet="0xob_1.+-eEainf", max_size=12))
@settings(max_examples=500, deadline=None)
def test_plain_scalars_of_any_text(text: str) -> None:
    value = plain(text)
    assert isinstance(value, str | int | float) or (text == "" and value is None)


@given(st.text(alphabet="${}:-+?AX \"'\\", max_size=40))
@settings(max_examples=300, deadline=None)
def test_variables_of_any_text(template: str) -> None:
    try:
        substitute(template, {"A": "1"}.get)
    except (InvalidTemplate, MissingVariable):
        pass


def test_dotenv() -> None:
    text = (
        "A=1\nB=\"x $A\\n\"\nexport C='$A'\nD\nE=v # c\nF=a#b\n# no\nG: y\n"
        'M="two\nlines"\nH=${A:-2}${Z:-3}\n'
    )
    assert dotenv.parse(text, {"D": "outside"}.get) == {
        "A": "1", "B": "x 1\n", "C": "$A", "D": "outside", "E": "v", "F": "a#b", "G": "y",
        "M": "two\nlines", "H": "13",
    }  # fmt: skip
    for wrong in ("A B=1", '="x"', 'A="x', "A='x' y"):
        with pytest.raises(InvalidFile) as caught:
            dotenv.parse(f"OK=1\n{wrong}\n", {}.get, "f.env")
        assert caught.value.at is not None and caught.value.at[:2] == ("f.env", 2)


@given(st.text(alphabet="AB=$\"'\\ #\n:{}-export\t\0", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_variables_or_an_error_with_a_place(text: str) -> None:
    try:
        values = dotenv.parse(text, {"A": "1"}.get, "f.env")
    except InvalidFile as err:
        assert err.at is not None and 1 <= err.at.line <= text.count("\n") + 1
    else:
        assert all(name and "\n" not in name for name in values)


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_yaml_or_an_error_with_a_place(data: bytes) -> None:
    try:
        list(documents(data, "f"))
    except InvalidFile as err:
        assert err.at is not None


# -- meaning --------------------------------------------------------------------------------------


def test_implied_networks_names_and_dependencies(tmp_path: Path) -> None:
    found = project(
        tmp_path,
        "name: p\n"
        "services:\n"
        "  a: {image: x, links: ['b:bb'], ipc: 'service:c', volumes_from: [d]}\n"
        "  b: {image: x, network_mode: host}\n"
        "  c: {image: x, networks: [n]}\n"
        "  d: {image: x}\n"
        "networks: {n: {}, e: {external: true}}\n",
    )
    assert sorted(found.networks) == ["default", "e", "n"]
    assert found.networks["default"]["name"] == "p_default"
    assert found.networks["e"]["name"] == "e"
    depends = found.services["a"]["depends_on"]
    assert {name: how["restart"] for name, how in depends.items()} == {
        "b": True, "c": True, "d": False,
    }  # fmt: skip
    assert "networks" not in found.services["b"]


def test_several_files_reset_and_override(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "services:\n  a:\n    image: x\n    ports: ['1:1']\n    environment: {A: 1, B: 2}\n"
        "    command: [one]\n    labels: [l=1]\n    dns: 1.1.1.1\n"
    )
    (tmp_path / "two.yaml").write_text(
        "services:\n  a:\n    ports: !override ['2:2']\n    environment: [B=3, C=4]\n"
        "    command: [two]\n    labels: !reset []\n    dns: [2.2.2.2]\n"
    )
    found = load(
        Request(files=[str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")], environment={})
    ).services["a"]
    assert [port["target"] for port in found["ports"]] == [2]
    assert found["environment"] == {"A": "1", "B": "3", "C": "4"}
    assert found["command"] == ["two"]
    assert "labels" not in found
    assert found["dns"] == ["1.1.1.1", "2.2.2.2"]


def test_extends_and_include(tmp_path: Path) -> None:
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc" / "base.yaml").write_text(
        "services:\n  base: {image: base, volumes: ['./v:/v'], environment: {A: base}}\n"
    )
    (tmp_path / "inc" / "other.yaml").write_text(
        "services:\n  other: {image: 'o:${TAG}', volumes: ['./w:/w']}\n"
    )
    (tmp_path / "inc" / ".env").write_text("TAG=7\n")
    found = project(
        tmp_path,
        "include: [inc/other.yaml]\n"
        "services:\n"
        "  a: {extends: {file: inc/base.yaml, service: base}, environment: [B=a]}\n"
        "  b: {extends: a, image: b}\n",
    ).services
    assert found["b"]["image"] == "b"
    assert found["b"]["environment"] == {"A": "base", "B": "a"}
    assert found["a"]["volumes"][0]["source"] == str(tmp_path / "inc" / "v")
    assert found["other"]["image"] == "o:7"
    assert found["other"]["volumes"][0]["source"] == str(tmp_path / "inc" / "w")


def test_profiles_and_selection(tmp_path: Path) -> None:
    text = (
        "services:\n  a: {image: x}\n  b: {image: x, profiles: [p], depends_on: [c]}\n"
        "  c: {image: x, profiles: [q]}\n"
        "  d: {image: x, profiles: [r], depends_on: [e, f]}\n"
        "  e: {image: x, profiles: [q, r]}\n  f: {image: x}\n"
        "  g: {image: x, depends_on: {c: {condition: service_started, required: false}}}\n"
    )
    assert list(project(tmp_path, text, checks=False).services) == ["a", "f", "g"]
    with pytest.raises(NotFound, match=r"no such service: c: b depends on it; .*\(q\)"):
        project(tmp_path, text).select(["b"])
    for profiles, names, wanted in (
        (["q"], ["b"], ["b", "c"]),
        ([], ["b", "c"], ["b", "c"]),
        ([], ["d"], ["d", "e", "f"]),
        ([], ["g"], ["g"]),
        (["r"], ["a"], ["a"]),
    ):
        found = project(tmp_path, text, profiles=profiles)
        found.select(names)
        assert list(found.services) == wanted
    found = project(tmp_path, text)
    found.select(["b"], dependencies=False)
    assert list(found.services) == ["b"]
    assert sorted(project(tmp_path, text, profiles=["*"]).services) == list("abcdefg")


def test_include_and_files_of_the_same_name_conflict(tmp_path: Path) -> None:
    (tmp_path / "inc.yaml").write_text(
        "services:\n  a: {image: x}\nnetworks: {n: {internal: true}}\n"
    )
    (tmp_path / "other.yaml").write_text("services:\n  a: {image: y}\n")
    for text, place in (
        ("include: [inc.yaml]\nservices:\n  a: {labels: {k: v}}\n", ":3:3: services.a"),
        ("include: [inc.yaml]\nservices:\n  a: {image: !reset null}\n", ":3:3: services.a"),
        ("include: [inc.yaml]\nnetworks: {n: {}}\n", ":2:12: networks.n"),
        ("include: [inc.yaml, other.yaml]\n", "inc.yaml:2:3: services.a"),
    ):
        with pytest.raises(InvalidFile) as caught:
            project(tmp_path, text)
        assert f"{place} conflicts with imported resource" in str(caught.value)
    text = "include: [inc.yaml]\nservices: {b: {image: x}}\nnetworks: {n: {internal: true}}\n"
    assert list(project(tmp_path, text).services) == ["a", "b"]
    found = project(tmp_path, "include: [{path: [inc.yaml, other.yaml]}]\n")
    assert found.services["a"]["image"] == "y"


def test_environment_of_files_is_beneath_the_services_own(tmp_path: Path) -> None:
    (tmp_path / "e").write_text("A=file\nB=file\nC\n")
    found = project(
        tmp_path,
        "services:\n  a: {image: x, env_file: [e, {path: none, required: false}],"
        " environment: {A: own, D: null}}\n",
        environment={"C": "shell"},
    ).services["a"]
    assert found["environment"] == {"A": "own", "B": "file", "C": "shell", "D": None}


# -- the printed form: as docker compose 2.40 prints it -------------------------------------------

EVERYTHING = """
services:
  a:
    image: x
    ports: ["80-81:8080-8081", "127.0.0.1:53:53/udp", {target: 9, published: 10, mode: host}]
    volumes: [./d:/d:ro, nn:/n, {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 1g}}}
    healthcheck: {test: curl x, interval: 1m30s}
    environment: {Q: "a: b", N: "12", D: "$$x", M: "l1\\nl2\\n", E: ""}
    ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}
    stop_grace_period: 1m
    secrets: [s]
volumes: {nn: }
secrets: {s: {environment: S}}
"""


def test_yaml_form(tmp_path: Path) -> None:
    found = project(tmp_path, EVERYTHING, name="p")
    text = config_output.to_yaml(config_output.encoded(found, False))
    assert '      "N": "12"\n' in text
    assert "      M: |\n        l1\n        l2\n" in text
    assert "      Q: 'a: b'\n" in text
    assert '          memory: "1073741824"\n' in text
    assert '      - mode: ingress\n        target: 8080\n        published: "80"\n' in text
    assert f"      - type: bind\n        source: {tmp_path}/d\n" in text
    assert "    stop_grace_period: 1m0s\n" in text
    again = project(tmp_path, text.replace("$", "$$"), name="p")
    assert config_output.to_yaml(config_output.encoded(again, False)) == text


def test_yaml_form_of_zeros_and_rare_letters(tmp_path: Path) -> None:
    text = (
        'services: {a: {image: x, labels: {l: "\u2603 \U0001f600"}, ulimits: {core: 0, nproc: 5}, '
        "volumes: [{type: bind, source: /s, target: /t, bind: {selinux: z}}]}}"
    )
    shown = config_output.to_yaml(config_output.encoded(project(tmp_path, text), False))
    assert 'l: "\u2603 \\U0001F600"' in shown
    assert "core:\n        soft: 0\n        hard: 0\n      nproc: 5" in shown
    assert "create_host_path" not in shown


def test_json_form_and_hash(tmp_path: Path) -> None:
    found = config(tmp_path, "services: {a: {image: x, deploy: {replicas: 1}}}", name="p")
    assert found["services"]["a"] == {
        "command": None,
        "deploy": {"replicas": 1, "resources": {}, "placement": {}},
        "entrypoint": None,
        "image": "x",
        "networks": {"default": None},
    }
    assert found["networks"] == {"default": {"name": "p_default", "ipam": {}}}
    # as `docker compose config --hash` shows it
    one = project(tmp_path, "services: {a: {image: x}}", name="p").services["a"]
    assert config_output.service_hash(one) == (
        "d5457d0b2799957b606d2ac4ed52d85a1e75799490e56229948300b9a59e8953"
    )
    scaled = project(tmp_path, "services: {a: {image: x, scale: 3}}", name="p").services["a"]
    assert config_output.service_hash(scaled) == config_output.service_hash(one)
    assert json.loads(config_output.to_json(project(tmp_path, EVERYTHING, name="p")))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
@settings(max_examples=300, deadline=None)
def test_yaml_is_read_back_as_it_was(value: Any) -> None:
    text = config_output.to_yaml({"k": value})
    assert next(documents(text.encode("utf-8", "surrogatepass"), "f")).tree == {"k": value}


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("services: {a: {imge: x}}", "1:16", "services.a.imge: additional properties 'imge' not "
         "allowed; did you mean 'image'?"),
        ("services:\n  a:\n    image: x\n    ports:\n      - 99999:1\n", "5:9",
         "services.a.ports[0]"),
        ("services: {a: {image: x, restart: 5}}", "1:26", "services.a.restart: must be a string"),
        ("services: {a: {image: x, volumes: ['nn:/x']}}", "1:36", "refers to undefined volume nn"),
        ("services: {a: {image: x, networks: [q]}}", "1:37", "refers to undefined network q"),
        ("services: {a: {}}", "1:12", "has neither an image nor a build context specified"),
        ("services: {a: {image: x, mem_limit: 1q}}", "1:26", "invalid suffix: 'q'"),
        ("services: {a: {image: '${X:?say}'}}", "1:16",
         "required variable X is missing a value: say"),
        ("services: {a: {image: x}, a: {image: y}}", "1:27", 'mapping key "a" already defined'),
        ("a: [", "2:1", "not valid YAML"),
        ("- a", "1:1", "top-level object must be a mapping"),
        ("services: {a: {image: x, extends: z}}", "1:26", 'service "z" not found'),
        ("services: {a: {extends: {file: no.yaml, service: z}}}", "1:26",
         "services.a.extends.file: open "),
        ("services: {a: {extends: {file: 5, service: z}}}", "1:26",
         "services.a.extends.file: must be a string"),
        ("services: {a: {extends: {fil: o, service: z}}}", "1:26",
         "services.a.extends.fil: additional properties 'fil' not allowed; did you mean 'file'?"),
        ("include: [no.yaml]", "1:11", "include[0]: open "),
        ("include: [.]", "1:11", "is a directory"),
        ("include: ['a\\0b']".replace("'", '"'), "1:11", "embedded null"),
        ("include:\n  - path:\n      - compose.yml\n      - no.yaml\n", "3:9",
         "include[0]: open "),
        ("include: [{path: o.yaml, env_file: [no.env]}]", "1:37",
         "include[0].env_file: couldn't find env file: "),
        ("include: [{path: 5}]", "1:12", "include[0].path: must be a string or a list of strings"),
        ("include: [{path: x, project_directory: 5}]", "1:21",
         "include[0].project_directory: must be a string"),
        ("include: [{pat: x}]", "1:12", "include[0].pat: additional properties 'pat' not allowed; "
         "did you mean 'path'?"),
        ("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, links: [c, a]}\n"
         "  c: {image: x}\n", "3:28",
         "services.b.links[1]: dependency cycle detected: a -> b -> a"),
        ("services: {a: {image: x, depends_on: [a]}}", "1:39",
         "services.a.depends_on.a: dependency cycle detected: a -> a"),
        ("services: {a: {image: x, ipc: 'service:z'}}", "1:26",
         'services.a.ipc: service "a" depends on undefined service "z"'),
        ("services: {a: {image: x, secrets: [s]}}", "1:36",
         'services.a.secrets[0]: service "a" refers to undefined secret s'),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [p, q]}}", "1:39",
         "it is disabled, and enabled by profiles [p q]"),
        ("# nothing", "1:1", "empty compose file"),
    ],
)  # fmt: skip
def test_errors_name_place_and_attribute(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        project(tmp_path, text)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/compose.yaml:{place}: ")


def test_cycles_are_named(tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match="dependency cycle detected: a -> b -> a"):
        project(tmp_path, "services: {a: {image: x, depends_on: [b]}, "
                          "b: {image: x, depends_on: [a]}}")  # fmt: skip
    (tmp_path / "o.yaml").write_text("include: [compose.yaml]\nservices: {}\n")
    with pytest.raises(InvalidFile, match="include cycle detected"):
        project(tmp_path, "include: [o.yaml]\nservices: {a: {image: x}}")
    with pytest.raises(InvalidFile, match="Circular reference"):
        project(tmp_path, "services: {a: {extends: b}, b: {extends: a}}")


def test_bombs_are_bounded(tmp_path: Path) -> None:
    lines = ["x-a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InvalidFile, match="maximum node visit limit"):
        project(tmp_path, "\n".join(lines))
    with pytest.raises(InvalidFile, match="contains itself"):
        project(tmp_path, "x-a: &a [*a]")
    with pytest.raises(InvalidFile, match="nest"):
        project(tmp_path, "x-a: " + "[" * 1000 + "]" * 1000)


def test_variables_do_not_multiply_without_end(tmp_path: Path) -> None:
    """Ten variables of ten times the one before, in .env and in a file."""
    lines = ["A0=" + "x" * 100, *(f"A{n}=" + f"$A{n - 1}" * 10 for n in range(1, 12))]
    with pytest.raises(InvalidFile, match="larger than 16777216 bytes") as caught:
        dotenv.parse("\n".join(lines), {}.get, "f.env")
    assert caught.value.at is not None and caught.value.at[:2] == ("f.env", 7)
    labels = "".join(f"      l{n}: $A$A$A$A$A$A$A$A$A$A\n" for n in range(50))
    text = f"services:\n  a:\n    image: x\n    labels:\n{labels}"
    with pytest.raises(InvalidFile, match=r"services.a.labels.l16: .*larger than 16777216 bytes"):
        project(tmp_path, text, environment={"A": "x" * 100_000})
    with pytest.raises(InvalidFile, match="larger than 16777216 bytes"):
        project(tmp_path, "services: {a: {image: x, command: '${X:-%s}'}}" % ("$A" * 200),
                environment={"A": "x" * 100_000})  # fmt: skip


def test_includes_do_not_multiply_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MAX_ALL_NODES", 20_000)
    for level in range(4):
        entries = ", ".join([f"l{level + 1}.yaml"] * 30)
        (tmp_path / f"l{level}.yaml").write_text(f"include: [{entries}]")
    (tmp_path / "l4.yaml").write_text("services: {a: {image: x}}")
    with pytest.raises(InvalidFile, match="more than 20000 values, each included") as caught:
        project(tmp_path, "include: [l0.yaml]")
    assert caught.value.at is not None and caught.value.path.startswith("include[")


@given(
    st.dictionaries(
        st.sampled_from(
            "image build command ports volumes networks environment depends_on deploy healthcheck "
            "secrets extends env_file ulimits labels logging devices develop".split()
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.floats(),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=6), inner, max_size=2)
            ),
            max_leaves=5,
        ),
        max_size=4,
    )
)
@settings(max_examples=400, deadline=None)
def test_any_service_is_a_project_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, service: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        project(folder, json.dumps({"services": {"a": service}}), name="p")
    except (PortsideError, OSError):
        pass


def test_floats_are_shown_as_go_shows_them() -> None:
    from portside.compose.merge import shown

    values = (float("inf"), float("-inf"), float("nan"), 1.5, 2.0)
    assert [shown(value) for value in values] == ["+Inf", "-Inf", "NaN", "1.5", "2"]


# -- plans ----------------------------------------------------------------------------------------


def test_nothing_is_planned_for_services_that_run(tmp_path: Path) -> None:
    """A service whose containers all run and stay has no start, and delays no other one."""
    found = project(tmp_path, "services: {a: {image: x}, b: {image: x, depends_on: [a]}}")
    actions = Actions(cast(Any, None), found)
    for name, state in (("a", "running"), ("b", "exited")):
        actions.containers[name] = [Container({"Id": name, "State": state})]
    plan = Plan()
    assert add_starts(plan, actions, [])["a"] == []
    assert [step.subject for step in plan.steps] == ["service b"]
    actions.changing.add("a")
    plan = Plan()
    add_starts(plan, actions, [])
    assert [step.subject for step in plan.steps] == ["service a", "service b"]


@pytest.mark.parametrize(
    ("image", "is_told"), [("portside/base", False), ("portside/base:other", True), ("x", True)]
)
def test_images_that_the_engine_makes_are_not_reported_as_pulled(image: str, is_told: bool) -> None:
    told: list[str] = []
    tools = service_images.ImageTools(auth=lambda image: {}, split=references.split)
    service_images.pull(cast(Any, None), {image: ("a", {})}, tools,
                        lambda event: told.append(event.detail), -1, {}, dry_run=True)  # fmt: skip
    assert told == (["Pulling", "Pulled"] if is_told else [])
