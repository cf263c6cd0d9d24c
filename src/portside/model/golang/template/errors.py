"""Why a template cannot be used."""

from __future__ import annotations

from portside.model.errors import InvalidParameter


class TemplateError(InvalidParameter):
    """A template is malformed or does not fit its value; the text names the place."""


class ParseError(TemplateError):
    """The text is not a template: ``template: :1: unclosed action``."""


class ExecError(TemplateError):
    """The template does not fit the value."""
