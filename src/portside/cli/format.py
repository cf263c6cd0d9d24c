"""``--format``: tables, JSON and Go templates over what the engine reported."""

from __future__ import annotations

from functools import partial

from portside.cli.table import aligned, table
from portside.model.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from portside.cli.session import Session
    from portside.model.golang.template import Row, Template

    Columns = Mapping[str, tuple[str, Callable[[Any, Any], Any]]]
    """By field name: the header, and the text of an item in a context."""
    Methods = Mapping[str, Callable[[Any, str], Any]]

_JSON = "{{json .}}"
_RAW = {
    "container": "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\n"
    "created_at: {{.CreatedAt}}\nstate:{{pad .State 1 0}}\nstatus:{{pad .Status 1 0}}\n"
    "names: {{.Names}}\nlabels:{{pad .Labels 1 0}}\nports:{{pad .Ports 1 0}}\n",
    "image": "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\n"
    "created_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n",
    "network": "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
    "volume": "name: {{.Name}}\ndriver: {{.Driver}}\n",
}
"""``--format raw``, an old form for scripts."""


def print_rows(
    session: Session,
    format: str,
    items: Sequence[Any],
    columns: Columns,
    shown: Sequence[str],
    context: Any = None,
    *,
    kind: str = "row",
    methods: Methods | None = None,
) -> None:
    """Print a listing as ``format`` says; without one a table of the ``shown`` fields."""
    for line in lines(format, items, columns, shown, context, kind=kind, methods=methods):
        session.out(line)


def lines(
    format: str,
    items: Sequence[Any],
    columns: Columns,
    shown: Sequence[str],
    context: Any = None,
    *,
    kind: str = "row",
    methods: Methods | None = None,
) -> Iterable[str]:
    """The lines of a listing; of streams each item may be passed as it arrives."""
    if format in ("", "table"):
        rows = [[str(columns[name][1](item, context)) for name in shown] for item in items]
        yield table([columns[name][0] for name in shown], rows)
        return
    if format == "raw" and kind in _RAW:
        format = _RAW[kind]
        if kind == _OF_CONTAINERS and "Size" in shown:
            format += "size: {{.Size}}\n"
    rows_ = (_row(item, columns, context, kind, methods) for item in items)
    if format.startswith("table"):
        text = _unescaped(format.removeprefix("table").strip(" "))
        yield from _template_table(text, rows_, columns, kind, methods or ())
        return
    template = parse(_JSON if format == "json" else _unescaped(format.strip(" ")), kind)
    for row in rows_:
        yield execute(template, row, kind)


def _row(item: Any, columns: Columns, context: Any, kind: str, methods: Methods | None) -> Row:
    from portside.model.golang.template import Row

    def field(function: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
        return lambda item: function(item, context)

    return Row(kind, item, {name: field(pair[1]) for name, pair in columns.items()}, methods)


def _template_table(
    text: str, rows: Iterable[Row], columns: Columns, kind: str, methods: Iterable[str]
) -> Iterable[str]:
    """The rows below a header that the same template makes of the columns' names."""
    from portside.model.golang.template import Row, Template
    from portside.model.golang.template.functions import Function

    names = ("json", "title", "lower", "upper", "truncate", "join", "pad", "slice")
    as_is = {name: Function(lambda value, *_: value, "a", 1, None) for name in names}
    body = parse(text, kind)
    header = Template(text, functions=as_is)
    names_of = {name: partial(_constant, pair[0]) for name, pair in columns.items()}
    headers = Row(kind, None, names_of, dict.fromkeys(methods, _label_header))
    first = execute(header, headers, kind)
    yield from aligned([first, *(execute(body, row, kind) for row in rows)])


def _constant(value: str, _: object) -> str:
    return value


def _label_header(_: object, label: str) -> str:
    """Docker's header of ``{{.Label "com.example.some-name"}}``: ``some name``."""
    return label.rpartition(".")[2].replace("-", " ").replace("_", " ")


def _unescaped(text: str) -> str:
    """Shells make it hard to type a tab."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


_OF_CONTAINERS = "container"
"""``ps`` has texts of its own for errors of templates."""


def parse(text: str, kind: str = "") -> Template:
    """Raises InvalidParameter with the docker command's text."""
    from portside.model.golang.template import ParseError, Template

    try:
        return Template(text)
    except ParseError as err:
        what = "failed to parse template" if kind == _OF_CONTAINERS else "template parsing error"
        raise InvalidParameter(f"{what}: {err}") from None


def execute(template: Template, value: Any, kind: str = "") -> str:
    from portside.model.golang.template import ExecError

    try:
        return template.render(value)
    except ExecError as err:
        what = "failed to execute template" if kind == _OF_CONTAINERS else "template parsing error"
        raise InvalidParameter(f"{what}: {err}") from None


def print_value(
    session: Session,
    format: str,
    value: Any,
    name: str = "",
    kind: str = "",
    shape: Callable[[Any], Any] | None = None,
) -> None:
    """Print one value by the template of ``version`` or ``info``; ``kind``: its type."""
    from portside.cli.shapes import as_struct
    from portside.model.golang.template import ExecError, ParseError, Template

    try:
        template = Template(_JSON if format == "json" else format, name)
    except ParseError as err:
        raise InvalidParameter(f"template parsing error: {err}") from None
    try:
        shaped = (shape or as_struct)(value)
        if kind:
            shaped.kind = kind
        session.out(template.render(shaped))
    except ExecError as err:
        if kind or name:  # as docker version and docker info do
            session.out("")
        raise InvalidParameter(str(err)) from None
