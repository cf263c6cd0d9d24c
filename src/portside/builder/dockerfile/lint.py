"""Build checks: every published rule, configured by the ``check`` directive.

Rules about the file alone are checked by :func:`check_file`; rules that need the scope of
variables or the context are reported by the frontend while it works.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from portside.builder.dockerfile import instructions as ins
from portside.builder.dockerfile.diagnostics import DockerfileError, Span, did_you_mean
from portside.model.errors import InvalidParameter
from portside.model.golang.booleans import parse_bool

_URL = "https://docs.docker.com/go/dockerfile/rule/"


class Rule(NamedTuple):
    name: str
    description: str
    slug: str
    experimental: bool = False

    @property
    def url(self) -> str:
        return f"{_URL}{self.slug}/"


def _rule(name: str, slug: str, description: str, *, experimental: bool = False) -> Rule:
    return Rule(name, description, slug, experimental)


STAGE_NAME_CASING = _rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase")
FROM_AS_CASING = _rule(
    "FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword"
)
NO_EMPTY_CONTINUATION = _rule(
    "NoEmptyContinuation", "no-empty-continuation",
    "Empty continuation lines will become errors in a future release",
)  # fmt: skip
CONSISTENT_INSTRUCTION_CASING = _rule(
    "ConsistentInstructionCasing", "consistent-instruction-casing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
)  # fmt: skip
DUPLICATE_STAGE_NAME = _rule(
    "DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"
)
RESERVED_STAGE_NAME = _rule(
    "ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names"
)
JSON_ARGS_RECOMMENDED = _rule(
    "JSONArgsRecommended", "json-args-recommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to "
    "OS signals",
)  # fmt: skip
MAINTAINER_DEPRECATED = _rule(
    "MaintainerDeprecated", "maintainer-deprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
)  # fmt: skip
UNDEFINED_ARG_IN_FROM = _rule(
    "UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"
)
WORKDIR_RELATIVE_PATH = _rule(
    "WorkdirRelativePath", "workdir-relative-path",
    "Relative workdir without an absolute workdir declared within the build can have unexpected "
    "results if the base image changes",
)  # fmt: skip
UNDEFINED_VAR = _rule(
    "UndefinedVar", "undefined-var", "Variables should be defined before their use"
)
MULTIPLE_INSTRUCTIONS_DISALLOWED = _rule(
    "MultipleInstructionsDisallowed", "multiple-instructions-disallowed",
    "Multiple instructions of the same type should not be used in the same stage",
)  # fmt: skip
LEGACY_KEY_VALUE_FORMAT = _rule(
    "LegacyKeyValueFormat", "legacy-key-value-format",
    "Legacy key/value format with whitespace separator should not be used",
)  # fmt: skip
REDUNDANT_TARGET_PLATFORM = _rule(
    "RedundantTargetPlatform", "redundant-target-platform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default "
    "behavior",
)  # fmt: skip
SECRETS_USED_IN_ARG_OR_ENV = _rule(
    "SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env",
    "Sensitive data should not be used in the ARG or ENV commands",
)  # fmt: skip
INVALID_DEFAULT_ARG_IN_FROM = _rule(
    "InvalidDefaultArgInFrom", "invalid-default-arg-in-from",
    "Default value for global ARG results in an empty or invalid base image name",
)  # fmt: skip
FROM_PLATFORM_FLAG_CONST_DISALLOWED = _rule(
    "FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed",
    "FROM --platform flag should not use a constant value",
)  # fmt: skip
COPY_IGNORED_FILE = _rule(
    "CopyIgnoredFile", "copy-ignored-file",
    "Attempting to Copy file that is excluded by .dockerignore",
)  # fmt: skip
INVALID_DEFINITION_DESCRIPTION = _rule(
    "InvalidDefinitionDescription", "invalid-definition-description",
    "Comment for build stage or argument should follow the format: "
    "`# <arg/stage name> <description>`. If this is not intended to be a description comment, "
    "add an empty line or comment between the instruction and the comment.",
    experimental=True,
)  # fmt: skip
EXPOSE_PROTO_CASING = _rule(
    "ExposeProtoCasing", "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase"
)
EXPOSE_INVALID_FORMAT = _rule(
    "ExposeInvalidFormat", "expose-invalid-format",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become "
    "an error in a future release",
)  # fmt: skip
INVALID_BASE_IMAGE_PLATFORM = _rule(
    "InvalidBaseImagePlatform", "invalid-base-image-platform",
    "Base image platform does not match expected target platform",
)  # fmt: skip

_SECRET = re.compile(
    r"(?:^|_)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:$|_)",
    re.IGNORECASE,
)
_PUBLIC = re.compile(r"(?:^|_)public(?:$|_)", re.IGNORECASE)


class Warned(NamedTuple):
    """One finding."""

    rule: Rule
    message: str
    span: Span

    @property
    def text(self) -> str:
        """``Rule: message``, as the plain progress prints it."""
        return f"{self.rule.name}: {self.message} (line {self.span.line})"


@dataclass
class CheckOptions:
    """The value of ``# check=skip=A,B;error=true;experimental=all``."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    error: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False

    @classmethod
    def parse(cls, text: str, what: str = "check options") -> CheckOptions:
        """DockerfileError, which names ``what``, for an option that does not exist."""
        found = cls()
        for part in (part.strip() for part in text.split(";")):
            if not part:
                continue
            name, equals, value = part.partition("=")
            if not equals:
                raise _bad_options(what, f'invalid check option "{part}"')
            names = frozenset(word.strip() for word in value.split(",") if word.strip())
            if name == "skip":
                found.skip, found.skip_all = names, "all" in names
            elif name == "experimental":
                found.experimental, found.experimental_all = names, "all" in names
            elif name == "error":
                try:
                    found.error = parse_bool(value)
                except InvalidParameter as err:
                    raise _bad_options(
                        what, f'failed to parse check option "{part}": {err}'
                    ) from None
            else:
                hint = did_you_mean(name, ("skip", "error", "experimental"))
                raise _bad_options(what, f'invalid check option "{name}"{hint}')
        return found


@dataclass
class Linter:
    """Collects what the options do not leave out."""

    options: CheckOptions = field(default_factory=CheckOptions)
    warnings: list[Warned] = field(default_factory=list)
    called: set[tuple[str, str, Span]] = field(default_factory=set)

    def report(self, rule: Rule, message: str, span: Span) -> None:
        options = self.options
        if rule.experimental and not (
            options.experimental_all or rule.name in options.experimental
        ):
            return
        if options.skip_all or rule.name in options.skip:
            return
        key = (rule.name, message, span)
        if key not in self.called:
            self.called.add(key)
            self.warnings.append(Warned(rule, message, span))

    def fail_if_asked(self) -> None:
        """With ``error=true`` a finding ends the build. DockerfileError."""
        if self.options.error and self.warnings:
            names = ", ".join(dict.fromkeys(warned.rule.name for warned in self.warnings))
            raise DockerfileError(
                f"lint violation found for rules: {names}", self.warnings[0].span, parsing=False,
                located=False,
            )  # fmt: skip


def _bad_options(what: str, why: str) -> DockerfileError:
    return DockerfileError(
        f"failed to parse {what}: {why}", Span(1, 1), parsing=False, located=False
    )


def check_file(dockerfile: ins.Dockerfile, linter: Linter) -> None:
    """The rules about the file alone."""
    for span in dockerfile.empty_continuations:
        linter.report(NO_EMPTY_CONTINUATION, "Empty continuation line", span)
    _casing(dockerfile, linter)
    seen: set[str] = set()
    for arg in dockerfile.global_args:
        _arg(arg, linter)
    for stage in dockerfile.stages:
        _stage(stage, seen, linter)


def _casing(dockerfile: ins.Dockerfile, linter: Linter) -> None:
    counts = Counter("lower" if word.islower() else "upper" for word, _ in dockerfile.keywords
                     if word.islower() or word.isupper())  # fmt: skip
    majority = "lowercase" if counts["lower"] > counts["upper"] else "uppercase"
    for word, span in dockerfile.keywords:
        wanted = word.lower() if majority == "lowercase" else word.upper()
        if word != wanted:
            linter.report(
                CONSISTENT_INSTRUCTION_CASING,
                f"Command '{word}' should match the case of the command majority ({majority})",
                span,
            )


def _stage(stage: ins.Stage, seen: set[str], linter: Linter) -> None:
    base, name = stage.base, stage.name
    if base.written_stage != name:
        linter.report(
            STAGE_NAME_CASING, f"Stage name '{base.written_stage}' should be lowercase", base.span
        )
    if base.as_keyword and base.as_keyword.islower() != base.keyword.islower():
        linter.report(
            FROM_AS_CASING,
            f"'{base.as_keyword}' and '{base.keyword}' keywords' casing do not match",
            base.span,
        )
    if name == "scratch":
        linter.report(
            RESERVED_STAGE_NAME,
            f'Stage name should not use the same name as reserved stage "{name}"',
            base.span,
        )
    if name and name in seen:
        linter.report(
            DUPLICATE_STAGE_NAME,
            f'Duplicate stage name "{base.written_stage}", stage names should be unique',
            base.span,
        )
    seen.add(name)
    _described(base, name, linter)
    _platform(base, linter)
    _once(stage, linter)
    has_shell = False
    for instruction in stage.instructions:
        has_shell = has_shell or isinstance(instruction, ins.Shell)
        if has_shell and isinstance(instruction, (ins.Cmd, ins.Entrypoint)):
            continue  # who names the shell wants it
        inner = instruction.inner if isinstance(instruction, ins.OnBuild) else instruction
        if inner is not None:
            _instruction(inner, linter)


def _described(instruction: ins.Instruction, name: str, linter: Linter) -> None:
    if not name or not instruction.comments:
        return
    comment = instruction.comments[-1]
    if comment and not comment.startswith(f"{name} "):
        what = "build stage" if isinstance(instruction, ins.From) else "build arg"
        linter.report(
            INVALID_DEFINITION_DESCRIPTION,
            f"Comment for {what} should follow the format: `# {name} <description>`",
            instruction.span,
        )


def _platform(base: ins.From, linter: Linter) -> None:
    if base.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        linter.report(
            REDUNDANT_TARGET_PLATFORM,
            f"Setting platform to predefined {base.platform} in FROM is redundant as this is the "
            "default behavior",
            base.span,
        )
    elif base.platform and "$" not in base.platform and not re.search(
        r"[-_]?(?:amd64|arm64|arm|386|s390x|ppc64le|riscv64|linux|windows)", base.stage
    ):  # fmt: skip
        linter.report(
            FROM_PLATFORM_FLAG_CONST_DISALLOWED,
            f'FROM --platform flag should not use constant value "{base.platform}"',
            base.span,
        )


def _once(stage: ins.Stage, linter: Linter) -> None:
    last: dict[str, ins.Instruction] = {}
    for instruction in stage.instructions:
        if not isinstance(instruction, (ins.Cmd, ins.Entrypoint, ins.HealthCheck)):
            continue
        before = last.get(instruction.name)
        if before is not None:
            linter.report(
                MULTIPLE_INSTRUCTIONS_DISALLOWED,
                f"Multiple {instruction.name} instructions should not be used in the same stage "
                "because only the last one will be used",
                before.span,
            )
        last[instruction.name] = instruction


def _instruction(instruction: ins.Instruction, linter: Linter) -> None:
    span, name = instruction.span, instruction.name
    if isinstance(instruction, (ins.Cmd, ins.Entrypoint)):
        if instruction.command.is_shell:
            linter.report(
                JSON_ARGS_RECOMMENDED,
                f"JSON arguments recommended for {name} to prevent unintended behavior related "
                "to OS signals",
                span,
            )
    elif isinstance(instruction, ins.Maintainer):
        linter.report(
            MAINTAINER_DEPRECATED,
            "Maintainer instruction is deprecated in favor of using label",
            span,
        )
    elif isinstance(instruction, (ins.Env, ins.Label)):
        for pair in instruction.pairs:
            if pair.legacy:
                linter.report(
                    LEGACY_KEY_VALUE_FORMAT,
                    f'"{name} key=value" should be used instead of legacy "{name} key value" '
                    "format",
                    span,
                )
            if isinstance(instruction, ins.Env):
                _secret(name, pair.key, span, linter)
    elif isinstance(instruction, ins.Arg):
        _arg(instruction, linter)
    elif isinstance(instruction, ins.Expose):
        _expose(instruction, linter)


def _arg(instruction: ins.Arg, linter: Linter) -> None:
    for declared in instruction.declared:
        _secret("ARG", declared.key, instruction.span, linter)
    if len(instruction.declared) == 1:
        _described(instruction, instruction.declared[0].key, linter)


def _secret(name: str, key: str, span: Span, linter: Linter) -> None:
    if _SECRET.search(key) and not _PUBLIC.search(key):
        linter.report(
            SECRETS_USED_IN_ARG_OR_ENV,
            f'Do not use ARG or ENV instructions for sensitive data ({name} "{key}")',
            span,
        )


def _expose(instruction: ins.Expose, linter: Linter) -> None:
    for port in instruction.ports:
        _, slash, protocol = port.partition("/")
        if slash and "$" not in protocol and protocol != protocol.lower():
            linter.report(
                EXPOSE_PROTO_CASING,
                f"Defined protocol '{port}' in EXPOSE instruction should be lowercase",
                instruction.span,
            )
        if ":" in port and "$" not in port:
            linter.report(
                EXPOSE_INVALID_FORMAT,
                "EXPOSE instruction should not define an IP address or host-port mapping, "
                f"found '{port}'",
                instruction.span,
            )
