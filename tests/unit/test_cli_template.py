"""Go templates as ``--format`` takes them. Every answer below is the docker CLI's own."""

from __future__ import annotations

from typing import Any

import pytest

from portside.cli import format as formatting
from portside.cli import inspect, shapes
from portside.cli.session import Failed
from portside.model.errors import InvalidParameter
from portside.model.golang.template import ExecError, ParseError, Row, Template

CONTAINER: dict[str, Any] = {
    "Id": "a" * 64,
    "Name": "/web",
    "Created": "2024-01-02T03:04:05.5Z",
    "Path": "sleep",
    "Args": ["10"],
    "RestartCount": 3,
    "Image": "sha256:" + "b" * 64,
    "State": {"Status": "running", "Running": True, "Paused": False, "Pid": 42, "ExitCode": 0,
              "Error": "", "StartedAt": "2024-01-02T03:04:05Z"},
    "Config": {"Hostname": "h", "Env": ["A=1", "B=<2>"], "Cmd": ["sleep", "10"],
               "Labels": {"k.x": "v", "tier": "front"}, "Image": "img", "Tty": False},
    "HostConfig": {"Memory": 67108864, "NanoCpus": 1500000000, "Binds": None,
                   "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
                   "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
    "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b", "RW": True}],
    "NetworkSettings": {
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None},
        "Networks": {"n1": {"IPAddress": "10.0.0.2"}, "n2": {"IPAddress": "10.0.1.2"}},
    },
}  # fmt: skip

PRINTED = [
    ("{{.Name}}", "/web"),
    ("{{ .Name }}", "/web"),
    ("x{{- .Name -}} y", "x/weby"),
    ("{{json .Config.Env}}", '["A=1","B=<2>"]'),
    ("{{json .Config.Labels}}", '{"k.x":"v","tier":"front"}'),
    ("{{json .State.Pid}}", "42"),
    ("{{json .Name}}", '"/web"'),
    ("{{json .HostConfig.Binds}}", "null"),
    ('{{join .Config.Cmd " "}}', "sleep 10"),
    ("{{.Config.Cmd | len}}", "2"),
    ("{{len .Name}}", "4"),
    ("{{len .Config.Labels}}", "2"),
    ("{{index .Config.Cmd 1}}", "10"),
    ('{{index .Config.Labels "k.x"}}', "v"),
    ('{{index .Config.Labels "none"}}', ""),
    ('{{index .NetworkSettings.Ports "80/tcp"}}', "[map[HostIp:0.0.0.0 HostPort:8080]]"),
    ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
    ("{{range .Config.Env}}[{{.}}]{{end}}", "[A=1][B=<2>]"),
    ("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=<2>;"),
    ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "k.x:v tier:front "),
    ("{{range .HostConfig.Binds}}x{{else}}none{{end}}", "none"),
    (
        "{{range $p, $c := .NetworkSettings.Ports}}{{$p}}{{range $c}}->{{.HostP"
        "ort}}{{end}} {{end}}",
        "53/udp 80/tcp->8080 ",
    ),
    (
        "{{range $n, $c := .NetworkSettings.Networks}}{{$n}} {{$c.IPAddress}},{{end}}",
        "n1 10.0.0.2,n2 10.0.1.2,",
    ),
    ('{{range .Config.Cmd}}{{if eq . "10"}}{{break}}{{end}}{{.}}{{end}}', "sleep"),
    ('{{range .Config.Cmd}}{{if eq . "sleep"}}{{continue}}{{end}}{{.}}{{end}}', "10"),
    ("{{range 3}}{{.}}{{end}}", "012"),
    ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
    ("{{if not .State.Running}}up{{else if .State.Paused}}p{{else}}down{{end}}", "down"),
    ("{{if and .State.Running (eq .State.Pid 42)}}yes{{end}}", "yes"),
    ("{{if or .State.Paused .Config.Tty}}yes{{else}}no{{end}}", "no"),
    ("{{if .State.Error}}e{{end}}", ""),
    ("{{if .HostConfig.Binds}}e{{else}}f{{end}}", "f"),
    ("{{with .State}}{{.Status}}{{end}}", "running"),
    ("{{with .State.Error}}{{.}}{{else}}fine{{end}}", "fine"),
    ("{{with $x := .Name}}{{$x}}{{end}}", "/web"),
    ("{{with .State.Error}}{{else with .Name}}{{.}}{{end}}", "/web"),
    ('{{$a := .Name}}{{$a}}{{$a = "z"}}{{$a}}', "/webz"),
    ("{{println .Name}}", "/web\n"),
    ('{{print .Name 1 2 "a" "b" 3}}', "/web1 2ab3"),
    ('{{printf "%s|%10s|%-8s|%q" .Name .Path .Path .Path}}', '/web|     sleep|sleep   |"sleep"'),
    (
        '{{printf "%d %5d %05d %x %X %o %b %c %U" 42 42 42 255 255 8 5 65 65}}',
        "42    42 00042 ff FF 10 101 A U+0041",
    ),
    (
        '{{printf "%f %.2f %8.3f %e %g" 1.5 1.5 1.5 1.5 1.5}}',
        "1.500000 1.50    1.500 1.500000e+00 1.5",
    ),
    ('{{printf "%v %+v %t %%" .State.Pid .Config.Cmd true}}', "42 [sleep 10] true %"),
    ('{{printf "%T %T %T" .Name .State.Pid .State.Running}}', "string int bool"),
    ('{{printf "%d" .Name}}', "%!d(string=/web)"),
    ('{{printf "%s" 42}}', "%!s(int=42)"),
    ('{{printf "%s"}}', "%!s(MISSING)"),
    ('{{printf "%s" "a" "b"}}', "a%!(EXTRA string=b)"),
    ('{{printf "%z" 1}}', "%!z(int=1)"),
    ('{{printf "%*d" 5 3}}', "    3"),
    ('{{printf "%v" .Config.Labels}}', "map[k.x:v tier:front]"),
    ('{{printf "%q" .Config.Cmd}}', '["sleep" "10"]'),
    ('{{printf "%x" "hi"}}', "6869"),
    ('{{printf "%5t|%-5v|" true nil}}', " true|<nil>|"),
    ('{{printf "%6.2f%%" 12.345}}', " 12.35%"),
    ("{{upper .Name}}", "/WEB"),
    ('{{lower "ABC"}}', "abc"),
    ('{{title "hello world-x it\'s"}}', "Hello World-X It'S"),
    ("{{title .Path}}", "Sleep"),
    ('{{split "a,b,c" ","}}', "[a b c]"),
    ('{{split .Name ""}}', "[/ w e b]"),
    ('{{index (split "a:b" ":") 1}}', "b"),
    ("{{truncate .Name 2}}", "/w"),
    ("{{truncate .Name 200}}", "/web"),
    ("{{pad .Name 2 3}}|", "  /web   |"),
    ('{{pad "" 2 3}}|', "|"),
    (
        "{{eq .State.Pid 42}} {{ne .State.Pid 42}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 2}}",
        "true false true true false true",
    ),
    ('{{eq .Name "/web" "x"}} {{eq "x" "a" "b" "x"}}', "true true"),
    ('{{lt "a" "b"}} {{lt 1.5 2.5}}', "true true"),
    (
        '{{and 1 0 2}} {{and 1 2}} {{or 0 "" "x"}} {{or 0 ""}} {{not 0}} {{not "a"}}',
        "0 2 x  true false",
    ),
    ("{{slice .Name 1 3}} {{slice .Config.Cmd 1}} {{slice .Name 2}}", "we [10] eb"),
    (
        '{{html "<a href=\'x\'>&\\"</a>"}} {{js "it\'s <b>"}} {{urlquery "a b/&=é"}}',
        "&lt;a href=&#39;x&#39;&gt;&amp;&#34;&lt;/a&gt; it\\'s \\u003Cb\\u003E a+b%2F%26%3D%C3%A9",
    ),
    ("{{.Config.Labels.tier}}", "front"),
    ("{{.Config.Labels.none}}", "<no value>"),
    ("{{.Config.Labels.none.more}}", "<no value>"),
    ("{{.State.Health}}", "<nil>"),
    ("{{if .State.Health}}h{{else}}-{{end}}", "-"),
    ("{{.HostConfig.Binds}}", "[]"),
    ("{{.HostConfig.RestartPolicy}}", "{always 0}"),
    ("{{.HostConfig.RestartPolicy.Name}}", "always"),
    ("{{.Config.Labels}}", "map[k.x:v tier:front]"),
    ("{{.Config.Env}}", "[A=1 B=<2>]"),
    (
        "{{.State.Running}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}",
        "true 67108864 1500000000",
    ),
    ("{{.RestartCount}} {{.Created}}", "3 2024-01-02T03:04:05.5Z"),
    ("{{\"a\\tb\\n\\\"q\\\"\"}} {{`raw\\n`}} {{'x'}} {{'\\n'}}", 'a\tb\n"q" raw\\n 120 10'),
    (
        "{{1}} {{-1}} {{1.5}} {{1e3}} {{0x1F}} {{0b11}} {{0o17}} {{017}} {{1_00"
        "0}} {{true}} {{false}}",
        "1 -1 1.5 1000 31 3 15 15 1000 true false",
    ),
    ("{{/* a comment */}}a{{- /* trimmed */ -}} b", "ab"),
    ('{{define "t"}}<{{.}}>{{end}}{{template "t" .Name}}{{template "t"}}', "</web><<no value>>"),
    ('{{block "b" .Path}}[{{.}}]{{end}}', "[sleep]"),
    ('{{.Name | upper | printf "%s!"}}', "/WEB!"),
    ('{{"x" | join .Config.Cmd}}', "sleepx10"),
    ('{{(.Name)}} {{(printf "%s" .Path) | upper}}', "/web SLEEP"),
    ("{{$.Name}} {{range .Config.Cmd}}{{$.Path}} {{end}}", "/web sleep sleep "),
    ("{{print nil}}", "<nil>"),
    ("{{.1}}", "0.1"),
    ("{{.Name | }}", "/web"),
    ("{{-3}} {{- 3}} {{3 -}} x", "-33 3x"),
    ('{{if eq .State.Status "running"}}{{printf "%.12s" .Id}}{{end}}', "aaaaaaaaaaaa"),
    (
        "{{range $i, $m := .Mounts}}{{if $i}}, {{end}}{{$m.Source}}:{{$m.Destin"
        "ation}}{{if not $m.RW}}:ro{{end}}{{end}}",
        "/a:/b",
    ),
    ("{{range .Mounts}}{{.Type}} {{.Name}}{{end}}", "bind "),
    ("{{.Mounts}}", "[{bind  /a /b   true }]"),
    ("{{.NetworkSettings.Ports}}", "map[53/udp:[] 80/tcp:[{0.0.0.0 8080}]]"),
    (
        "{{json .NetworkSettings.Ports}}",
        '{"53/udp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]}',
    ),
    ("{{with index .Mounts 0}}{{.Source}}{{end}}", "/a"),
    ("{{println}}{{print}}", "\n"),
    ("{{index .Config.Cmd}}", "[sleep 10]"),
]

PARSE_ERRORS = [
    ("{{.Name", "template: :1: unclosed action"),
    ("{{.Name}", "template: :1: bad character U+007D '}'"),
    ("{{", "template: :1: unclosed action"),
    ("{{}}", "template: :1: missing value for command"),
    ("{{ }}", "template: :1: missing value for command"),
    ("{{end}}", "template: :1: unexpected {{end}}"),
    ("{{else}}", "template: :1: unexpected {{else}}"),
    ("{{if}}x{{end}}", "template: :1: missing value for if"),
    ("{{if .Name}}x", "template: :1: unexpected EOF"),
    ("{{range}}x{{end}}", "template: :1: missing value for range"),
    ("{{with}}x{{end}}", "template: :1: missing value for with"),
    ("{{if .Name}}{{else}}{{else}}{{end}}", "template: :1: expected end; found {{else}}"),
    ("{{nosuch .Name}}", 'template: :1: function "nosuch" not defined'),
    ("{{.Name | nosuch}}", 'template: :1: function "nosuch" not defined'),
    ('{{"unterminated}}', "template: :1: unterminated quoted string"),
    ("{{`raw}}", "template: :1: unterminated raw quoted string"),
    ("{{'ab'}}", "template: :1: malformed character constant: 'ab'"),
    ("{{.Name )}}", "template: :1: unexpected right paren"),
    ("{{(.Name}}", "template: :1: unclosed left paren"),
    ("{{.Name..X}}", "template: :1: unexpected <.> in operand"),
    ("{{$x}}", 'template: :1: undefined variable "$x"'),
    ("{{range $i := .Config.Cmd}}{{$i}}{{end}}{{$i}}", 'template: :1: undefined variable "$i"'),
    ("{{break}}", "template: :1: {{break}} outside {{range}}"),
    ("{{continue}}", "template: :1: {{continue}} outside {{range}}"),
    ("{{template}}", 'template: :1: unexpected "}}" in template clause'),
    ("{{template .Name}}", 'template: :1: unexpected ".Name" in template clause'),
    ("{{define}}x{{end}}", 'template: :1: unexpected "}}" in define clause'),
    ('{{define "x"}}a', "template: :1: unexpected EOF"),
    ("{{1 | 2}}", "template: :1: non executable command in pipeline stage 2"),
    ("{{.Name | 3}}", "template: :1: non executable command in pipeline stage 2"),
    ("{{#}}", 'template: :1: unexpected "#" in command'),
    ("{{/* open}}", "template: :1: unclosed comment"),
    ("{{.Name}}{{/* c */ }}", "template: :1: comment ends before closing delimiter"),
    ("{{!x}}", 'template: :1: unexpected "!" in command'),
    ("{{a.b}}", 'template: :1: function "a" not defined'),
    ("{{| .Name}}", 'template: :1: unexpected "|" in command'),
]

RUN_ERRORS = [
    (
        "{{join .Config.Cmd}}",
        'template: :1:2: executing "" at <join>: wrong number of args for join: want 2 got 1',
    ),
    (
        '{{join .Name "x"}}',
        'template: :1:7: executing "" at <.Name>: wrong type for value; expecte'
        "d []string; got string",
    ),
    (
        "{{index .Config.Cmd 5}}",
        'template: :1:2: executing "" at <index .Config.Cmd 5>: error calling i'
        "ndex: index out of range: 5",
    ),
    (
        "{{index .Config.Labels 3}}",
        'template: :1:2: executing "" at <index .Config.Labels 3>: error callin'
        "g index: value has type int; should be string",
    ),
    (
        '{{index .Config.Cmd "a"}}',
        'template: :1:2: executing "" at <index .Config.Cmd "a">: error calling'
        " index: cannot index slice/array with type string",
    ),
    (
        "{{index .State 1}}",
        'template: :1:2: executing "" at <index .State 1>: error calling index:'
        " value has type int; should be string",
    ),
    (
        "{{range .Name}}{{end}}",
        'template: :1:8: executing "" at <.Name>: range can\'t iterate over /web',
    ),
    (
        "{{truncate .Name -1}}",
        'template: :1:2: executing "" at <truncate .Name -1>: error calling tru'
        "ncate: runtime error: slice bounds out of range [:-1]",
    ),
    ("{{upper 3}}", 'template: :1:8: executing "" at <3>: expected string; found 3'),
    (
        "{{upper}}",
        'template: :1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 0',
    ),
    (
        "{{upper .Name .Name}}",
        'template: :1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 2',
    ),
    (
        '{{truncate .Name "x"}}',
        'template: :1:17: executing "" at <"x">: expected integer; found "x"',
    ),
    (
        '{{eq 1 "a"}}',
        'template: :1:2: executing "" at <eq 1 "a">: error calling eq: incompat'
        "ible types for comparison",
    ),
    (
        "{{eq .Name}}",
        'template: :1:2: executing "" at <eq .Name>: error calling eq: missing '
        "argument for comparison",
    ),
    (
        "{{eq}}",
        'template: :1:2: executing "" at <eq>: wrong number of args for eq: want at least 1 got 0',
    ),
    (
        "{{lt true false}}",
        'template: :1:2: executing "" at <lt true false>: error calling lt: inv'
        "alid type for comparison",
    ),
    (
        "{{slice .Name 3 1}}",
        'template: :1:2: executing "" at <slice .Name 3 1>: error calling slice'
        ": invalid slice index: 3 > 1",
    ),
    (
        "{{slice .Name 0 99}}",
        'template: :1:2: executing "" at <slice .Name 0 99>: error calling slic'
        "e: index out of range: 99",
    ),
    ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
    (
        "{{.State.Foo}}",
        'template: :1:8: executing "" at <.State.Foo>: map has no entry for key "Foo"',
    ),
    (
        "{{.State.Foo.Bar}}",
        'template: :1:8: executing "" at <.State.Foo.Bar>: map has no entry for key "Foo"',
    ),
    (
        "{{.State.Health.Status}}",
        'template: :1:8: executing "" at <.State.Health.Status>: map has no entry for key "Health"',
    ),
    (
        '{{template "nope"}}',
        'template: :1:11: executing "" at <{{template "nope"}}>: template "nope" not defined',
    ),
    (
        "{{.Config.Cmd | join}}",
        'template: :1:16: executing "" at <join>: wrong number of args for join: want 2 got 1',
    ),
    ("{{nil}}", 'template: :1:2: executing "" at <nil>: nil is not a command'),
    ("{{nil | print}}", 'template: :1:2: executing "" at <nil>: nil is not a command'),
    (
        "{{$x := 1}}{{$x.y}}",
        'template: :1:15: executing "" at <$x.y>: can\'t evaluate field y in type int',
    ),
    (
        "{{3 .Name}}",
        'template: :1:2: executing "" at <3>: can\'t give argument to non-function 3',
    ),
    (
        "{{.Name 3}}",
        'template: :1:2: executing "" at <.Name>: Name is not a method but has arguments',
    ),
    (
        '{{"a" "b"}}',
        'template: :1:2: executing "" at <"a">: can\'t give argument to non-function "a"',
    ),
    (
        "{{index nil 1}}",
        'template: :1:2: executing "" at <index nil 1>: error calling index: index of untyped nil',
    ),
    (
        "{{index 3 1}}",
        'template: :1:2: executing "" at <index 3 1>: error calling index: can\''
        "t index item of type int",
    ),
    (
        "{{json}}",
        'template: :1:2: executing "" at <json>: wrong number of args for json: want 1 got 0',
    ),
    (
        "{{json . .}}",
        'template: :1:2: executing "" at <json>: wrong number of args for json: want 1 got 2',
    ),
    (
        "{{not}}",
        'template: :1:2: executing "" at <not>: wrong number of args for not: want 1 got 0',
    ),
    (
        "{{and}}",
        'template: :1:2: executing "" at <and>: wrong number of args for and: w'
        "ant at least 1 got 0",
    ),
]


def printed(text: str) -> str:
    return inspect._rendered(inspect._parsed(text), CONTAINER)


@pytest.mark.parametrize(("text", "wanted"), PRINTED, ids=[text for text, _ in PRINTED])
def test_prints_as_docker(text: str, wanted: str) -> None:
    assert printed(text) == wanted


@pytest.mark.parametrize(("text", "wanted"), PARSE_ERRORS, ids=[text for text, _ in PARSE_ERRORS])
def test_malformed_templates_are_reported_with_their_line(text: str, wanted: str) -> None:
    with pytest.raises(Failed) as caught:
        inspect._parsed(text)
    assert (str(caught.value), caught.value.status) == (f"template parsing error: {wanted}", 64)


@pytest.mark.parametrize(("text", "wanted"), RUN_ERRORS, ids=[text for text, _ in RUN_ERRORS])
def test_misfits_are_reported_with_line_column_and_expression(text: str, wanted: str) -> None:
    with pytest.raises(Failed) as caught:
        printed(text)
    assert str(caught.value) == f"template parsing error: {wanted}"


def test_the_place_counts_lines_and_bytes() -> None:
    with pytest.raises(ParseError, match="template: t:3: "):
        Template("a\nb\n{{nosuch .}}", "t")
    with pytest.raises(ExecError, match=r"template: t:2:5: .* at <\.Foo>"):
        Template("a\n\u00e9 {{.Foo}}", "t").render(shapes.as_struct({"Bar": 1}))


# -- listings ----------------------------------------------------------------------------------

COLUMNS: formatting.Columns = {
    "ID": ("THING ID", lambda item, _: item["id"]),
    "Name": ("NAME", lambda item, _: item["name"]),
    "Flag": ("FLAG", lambda item, _: item.get("flag", False)),
}
ITEMS = [{"id": "1", "name": "first"}, {"id": "22", "name": "<second>", "flag": True}]


def listing(format: str) -> list[str]:
    shown = ("ID", "Name")
    return list(formatting.lines(format, ITEMS, COLUMNS, shown, kind="thing",
                                 methods={"Has": lambda item, name: name in item}))  # fmt: skip


@pytest.mark.parametrize(
    ("format", "wanted"),
    [
        ("", ["THING ID   NAME\n1          first\n22         <second>"]),
        ("table", ["THING ID   NAME\n1          first\n22         <second>"]),
        ("{{.ID}}:{{.Name}}", ["1:first", "22:<second>"]),
        (r"{{.ID}}\t{{.Name}}", ["1\tfirst", "22\t<second>"]),
        (r"table {{.Name}}\t{{.ID}}", ["NAME       THING ID", "first      1", "<second>   22"]),
        ("table {{upper .Name}}", ["NAME", "FIRST", "<SECOND>"]),
        ("table {{.ID}} {{.Name}}", ["THING ID NAME", "1 first", "22 <second>"]),
        ('{{.Has "flag"}}', ["false", "true"]),
        ("{{if .Flag}}{{.ID}}{{else}}-{{end}}", ["-", "22"]),
        (
            "json",
            [
                '{"Flag":false,"ID":"1","Name":"first"}',
                r'{"Flag":true,"ID":"22","Name":"\u003csecond\u003e"}',
            ],
        ),
    ],
)
def test_listings(format: str, wanted: list[str]) -> None:
    assert listing(format) == wanted


@pytest.mark.parametrize(
    ("format", "wanted"),
    [
        ("{{.Nope}}", 'template parsing error: template: :1:2: executing "" at <.Nope>: '
         "can't evaluate field Nope in type thing"),
        ("{{.Has}}", 'template parsing error: template: :1:2: executing "" at <.Has>: '
         "wrong number of args for Has: want 1 got 0"),
        ("{{.ID 3}}", 'template parsing error: template: :1:2: executing "" at <.ID>: '
         "wrong number of args for ID: want 0 got 1"),
        ("{{.ID", "template parsing error: template: :1: unclosed action"),
    ],
)  # fmt: skip
def test_listings_with_bad_templates(format: str, wanted: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        listing(format)
    assert str(caught.value) == wanted


def test_a_row_prints_its_fields_in_order() -> None:
    row = Row("thing", ITEMS[0], {"B": lambda item: item["id"], "A": lambda item: 5})
    assert Template("{{json .}} {{.}}").render(row) == '{"A":5,"B":"1"} {5 1}'


def test_events_answer_to_their_old_names() -> None:
    event = shapes.event(
        {"Type": "container", "Action": "start", "Actor": {"ID": "x", "Attributes": {"b": "1"}},
         "time": 5, "timeNano": 6}
    )  # fmt: skip
    assert Template("{{.Status}} {{.ID}} {{.Time}} {{.Actor.Attributes.b}}").render(event) == (
        "start x 5 1"
    )
    assert Template("{{json .}}").render(event).startswith('{"Type":"container","Action":"start"')
    assert "Status" not in Template("{{json .}}").render(event)


def test_optional_fields_are_there_but_not_in_json() -> None:
    image = shapes.whole({"Id": "i", "Config": {"Cmd": ["x"]}, "RootFS": {}}, "image")
    assert Template("{{.Config.Labels}} {{.Config.Entrypoint}} {{.ID}}").render(image) == (
        "map[] [] i"
    )
    assert Template("{{json .Config}}").render(image) == '{"Cmd":["x"]}'
    network = shapes.whole({"Name": "n", "Created": "2024-01-02T03:04:05.50Z"}, "network")
    assert Template("{{.Created}}").render(network) == "2024-01-02 03:04:05.5 +0000 UTC"
    assert Template("{{json .Created}}").render(network) == '"2024-01-02T03:04:05.50Z"'
