"""Go templates (text/template), as far as ``--format`` and ``-f`` use them.

``lexer`` makes tokens, ``parser`` a tree of ``nodes``, ``evaluate`` walks it over plain
values, ``functions`` and ``printf`` hold what templates may call, ``values`` Go's way to
write and compare values. Errors carry the texts of Go, which name the place.
"""

from __future__ import annotations

from portside.cli.template.errors import ExecError as ExecError
from portside.cli.template.errors import ParseError as ParseError
from portside.cli.template.errors import TemplateError as TemplateError
from portside.cli.template.evaluate import Template as Template
from portside.cli.template.values import GoMap as GoMap
from portside.cli.template.values import GoStruct as GoStruct
from portside.cli.template.values import Row as Row
