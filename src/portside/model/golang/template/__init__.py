"""Go templates (text/template), as far as ``--format`` and ``-f`` use them.

``lexer`` makes tokens, ``parser`` a tree of ``nodes``, ``evaluate`` walks it over plain
values, ``functions`` and ``printf`` hold what templates may call, ``values`` Go's way to
write and compare values. Errors carry the texts of Go, which name the place.
"""

from __future__ import annotations

from portside.model.golang.template.errors import ExecError as ExecError
from portside.model.golang.template.errors import ParseError as ParseError
from portside.model.golang.template.errors import TemplateError as TemplateError
from portside.model.golang.template.evaluate import Template as Template
from portside.model.golang.template.values import GoMap as GoMap
from portside.model.golang.template.values import GoStruct as GoStruct
from portside.model.golang.template.values import Row as Row
