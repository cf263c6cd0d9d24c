"""pull, push and build."""

from __future__ import annotations

from portside.cli import auth, references
from portside.cli.compose import build_output, build_targets
from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed
from portside.client.client import path_of
from portside.compose import service_builds, service_images
from portside.compose.compose_errors import ComposeError
from portside.compose.executor import execute
from portside.compose.progress_events import DONE, WARNING, WORKING, Event
from portside.compose.service_builds import BuildOptions
from portside.compose.step_plan import Plan
from portside.model.errors import PortsideError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project, Values
    from portside.flags.table import Options


# -- pull ------------------------------------------------------------------------------------


@compose_verb("pull", usage="[OPTIONS] [SERVICE...]", about="Download the images of services",
              flags="""
      --ignore-buildable       Leave out images that can be built
      --ignore-pull-failures   Continue when an image cannot be downloaded
      --include-deps           Also images of dependencies
      --policy string          missing or always
  -q, --quiet                  Do not show progress
""")  # fmt: skip
def pull(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    if options.text("policy", "always") not in ("missing", "always"):
        raise Failed(1, f'invalid --policy option "{options.text("policy")}"')
    project = session.load(arguments, dependencies=options.flag("include-deps"), environment=False)
    if options.flag("quiet"):
        session.progress = "quiet"
    report = session.board("Pulling").report
    names = [path_of("images", name, "json") for name in service_images.names_of(project)]
    found = session.pool.get_all([(path, None) for path in names])
    present = {name for name, item in zip(service_images.names_of(project), found, strict=True)
               if item}  # fmt: skip
    wanted: dict[str, tuple[str, Values]] = {}
    for name, service in project.services.items():
        if "provider" in service:
            continue
        if options.text("policy"):
            service["pull_policy"] = options.text("policy")
        if skipped := _why_skipped(service, present, options, wanted):
            report(Event(name, DONE, "", detail=skipped))
        else:
            wanted[service["image"]] = (name, service)
    buildable = {image for image, (_, service) in wanted.items() if "build" in service}
    forgiven = set(wanted) if options.flag("ignore-pull-failures") else buildable
    service_images.pull(
        session.pool, wanted,
        build_output.image_tools(session, project, quiet=options.flag("quiet")), report,
        session.parallel, project.environment, may_fail=forgiven, dry_run=session.dry_run,
    )  # fmt: skip
    return 0


def _why_skipped(
    service: Values, present: set[str], options: Options, wanted: dict[str, tuple[str, Values]]
) -> str:
    image, policy = service.get("image"), service.get("pull_policy") or ""
    if not image:
        return "Skipped - No image to be pulled"
    if policy in ("never", "build"):
        return "Skipped"
    tag = references.split(references.familiar(image))[1]
    if policy in ("missing", "if_not_present") and image in present and tag != "latest":
        return "Skipped - Image is already present locally"
    if "build" in service and options.flag("ignore-buildable"):
        return "Skipped - Image can be built"
    if image in wanted:
        return f"Skipped - Image is already being pulled by {wanted[image][0]}"
    return ""


# -- push ------------------------------------------------------------------------------------


@compose_verb("push", usage="[OPTIONS] [SERVICE...]", about="Upload the images of services",
              flags="""
      --ignore-push-failures   Continue when an image cannot be uploaded
      --include-deps           Also images of dependencies
  -q, --quiet                  Do not show progress
""")  # fmt: skip
def push(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.load(arguments, dependencies=options.flag("include-deps"), environment=False)
    if options.flag("quiet"):
        session.progress = "quiet"
    report = session.board("Pushing").report
    plan = Plan()
    for name, service in project.services.items():
        if "build" not in service or not service.get("image"):
            report(Event(name, DONE, "", detail="Skipped"))
            continue
        for image in service_builds.tags_of(project, name, service):
            plan.add("push", f"image {image}", _pusher(session, image, report, options))
    execute(plan, session.parallel)
    return 0


def _pusher(
    session: ComposeSession, image: str, report: Callable[[Event], None], options: Options
) -> Callable[[], None]:
    repository, tag, _ = references.split(image)
    known = auth.usable(session.config, references.registry(repository))
    headers = {"X-Registry-Auth": auth.encode(known)}

    def perform() -> None:
        report(Event(image, WORKING, "", detail="Pushing"))
        try:
            if not session.dry_run:
                with session.pool.client() as client:
                    _drain(client.messages("POST", path_of("images", repository, "push"),
                                           {"tag": tag or "latest"}, headers=headers))  # fmt: skip
        except PortsideError as err:
            if not options.flag("ignore-push-failures"):
                raise
            report(Event(image, WARNING, str(err), detail="Warning"))
            return
        report(Event(image, DONE, "", detail="Pushed"))

    return perform


def _drain(messages: Any) -> None:
    for message in messages:
        if message.get("error"):
            detail = message.get("errorDetail") or {}
            raise ComposeError(str(detail.get("message") or message["error"]))


# -- build -----------------------------------------------------------------------------------


@compose_verb("build", usage="[OPTIONS] [SERVICE...]", about="Build the images of services",
              flags="""
      --build-arg list       Set a variable of the build
      --builder string       hidden:
      --check                Check the Dockerfiles only
      --builder string       hidden:
      --compress             hidden:
      --force-rm             hidden:
  -m, --memory bytes         Accepted and ignored, as by BuildKit
      --no-cache             Run every step
      --no-rm                hidden:
      --parallel             hidden:
      --print                Print what would be built, as JSON
      --progress string      hidden:
      --provenance string    Add an attestation of provenance
      --pull                 Look for newer base images
      --push                 Upload the images
  -q, --quiet                Do not show output
      --sbom string          Add an attestation of the software in the image
      --ssh string           Keys or agents that steps may use
      --with-dependencies    Also images of dependencies
""")  # fmt: skip
def build(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    project = session.load(environment=False)
    project.enable(arguments)
    for name in arguments:
        project.service(name)
    names = arguments or list(project.services)
    if arguments and options.flag("with-dependencies"):
        names = project.with_dependencies(arguments)
    args = {}
    for text in options.many("build-arg"):
        name, separator, value = text.partition("=")
        if separator or name in project.environment:
            args[name] = value if separator else project.environment[name]
    choices = BuildOptions(
        args,
        options.flag("no-cache"),
        options.flag("pull"),
        dict([text.partition("=")[::2]]) if (text := options.text("ssh")) else {},
        options.text("provenance"),
        options.text("sbom"),
    )
    if options.flag("print"):
        _print_bake(session, project, names, choices)
        return 0
    if options.flag("quiet"):
        session.progress = "quiet"
    build_output.build_services(session, project, names, choices)
    session.finish()
    if options.flag("push"):
        report = session.board("Pushing").report
        for name in service_builds.with_needed(project, names):
            for image in service_builds.tags_of(project, name, project.services[name]):
                _pusher(session, image, report, options)()
    return 0


def _print_bake(
    session: ComposeSession, project: Project, names: list[str], choices: BuildOptions
) -> None:
    """The targets to build, in the form of ``docker buildx bake``."""
    from portside.compose.config_output import go_json

    chosen = service_builds.with_needed(project, names)
    chosen.sort(key=lambda name: name not in names)  # the requested services come first
    targets = {name: build_targets.target_of(project, name, choices) for name in sorted(chosen)}
    session.out(go_json({"group": {"default": {"targets": chosen}}, "target": targets}, 2))
