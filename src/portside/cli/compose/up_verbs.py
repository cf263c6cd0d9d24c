"""up, create, scale and down."""

from __future__ import annotations

from portside.cli.compose.build_output import image_tools
from portside.cli.compose.compose_session import switch
from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed
from portside.compose import bringing_up
from portside.compose.changes import DIVERGED, FORCE, NEVER
from portside.compose.compose_errors import ComposeError
from portside.compose.converge import UpOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project
    from portside.compose.service_images import ImageTools
    from portside.flags.table import Options

_PULLS = ("always", "missing", "if_not_present", "never", "build")
_CREATE = """
      --build             Build the images first
      --force-recreate    Recreate containers although nothing has changed
      --no-build          Build no image, whatever the policy says
      --no-recreate       Leave containers as they are
      --pull string       Pull images: always, missing, never or build (default "policy")
      --quiet-pull        Pull without showing progress
      --remove-orphans    Remove containers of services that the files do not define
      --scale list        SERVICE=NUM: how many containers a service has
  -y, --yes               Answer every question with yes
"""
_UP = """
      --abort-on-container-exit      Stop everything as soon as a container ends
      --abort-on-container-failure   Stop everything as soon as a container fails
      --always-recreate-deps         Also recreate the containers of dependencies
      --attach list                  Show the output of these services only
      --attach-dependencies          Also show the output of dependencies
  -d, --detach                       Leave the containers running in the background
      --exit-code-from string        Exit with the status of this service's container
      --menu                         Take keys while output is shown (default true)
      --no-attach list               Do not show the output of these services
      --no-color                     Print without colours
      --no-deps                      Leave dependencies alone
      --no-log-prefix                Print without names before lines
      --no-start                     Create the containers only
      --plan                         Show the planned changes and the reasons, without making them
      --quiet-build                  Build without showing output
  -V, --renew-anon-volumes           Begin with new anonymous volumes in place of the old ones
  -t, --timeout int                  Seconds to wait for a container to stop
      --timestamps                   Show when each line of output came
      --wait                         Wait until services run or are healthy; detached
      --wait-timeout int             Seconds to wait at most
  -w, --watch                        Watch files, and bring their changes into the containers
"""


@compose_verb("up", usage="[OPTIONS] [SERVICE...]", about="Create and start containers",
              flags=_CREATE + _UP)  # fmt: skip
def up(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    detached = _check_up(options)
    project = session.load(arguments, dependencies=not options.flag("no-deps"))
    if not project.services:
        raise Failed(1, "no service selected")
    if options.text("exit-code-from"):
        project.service(options.text("exit-code-from"))
    choices = _up_options(session, options, project, arguments)
    actions = session.actions(project, timeout=options.number("timeout"))
    if options.flag("plan"):
        from portside.cli.compose.plan_verbs import show_plan

        return show_plan(session, actions, choices)
    if session.remotes.is_main:
        from portside.cli.compose import remote_consent

        remote_consent.ask(session, project, options.flag("yes"), {})
    tools = _tools(session, project, options)
    choices.rolls = not options.flag("no-start")
    if options.flag("no-start"):
        bringing_up.create(actions, choices, tools, session.parallel)
        return 0
    if not detached:
        from portside.cli.compose import attached_up

        attached_up.shown_services(project, options, arguments)
        if options.flag("watch"):
            from portside.compose.file_sync import rules_of

            rules_of(project, project.services)
        plan = bringing_up.prepare(actions, choices, tools, session.parallel).plan
        return attached_up.run(session, actions, plan, options, arguments)
    bringing_up.up(
        actions, choices, tools, session.parallel, wait=options.flag("wait"),
        wait_seconds=options.number("wait-timeout") or 0,
    )  # fmt: skip
    return 0


def _check_up(options: Options) -> bool:
    """Refuse what excludes each other; whether it is detached. Raises Failed."""
    wait, detached = options.flag("wait"), options.flag("detach") or options.flag("wait")
    stops = options.flag("abort-on-container-exit")
    fails = options.flag("abort-on-container-failure")
    stops = stops or (bool(options.text("exit-code-from")) and not fails)
    attached = options.flag("attach-dependencies") or bool(options.many("attach"))
    watches = options.flag("watch")
    clashes = attached or stops or fails or watches
    ways = (
        "--abort-on-container-exit, --abort-on-container-failure, --attach, "
        "--attach-dependencies or --watch"
    )
    for wrong, text in (
        (stops and fails, "--abort-on-container-failure cannot be combined with "
         "--abort-on-container-exit"),
        (wait and clashes, f"--wait cannot be combined with {ways}"),
        (detached and clashes, f"--detach cannot be combined with {ways}"),
        (options.flag("build") and options.flag("no-build"),
         "--build and --no-build are incompatible"),
        (options.flag("renew-anon-volumes") and options.flag("no-recreate"),
         "--no-recreate and --renew-anon-volumes are incompatible"),
        (options.flag("force-recreate") and options.flag("no-recreate"),
         "--force-recreate and --no-recreate are incompatible"),
        (options.flag("always-recreate-deps") and options.flag("no-recreate"),
         "--always-recreate-deps and --no-recreate are incompatible"),
        (options.flag("no-build") and watches, "--no-build and --watch are incompatible"),
        (bool(options.many("attach")) and options.flag("attach-dependencies"),
         "cannot combine --attach and --attach-dependencies"),
    ):  # fmt: skip
        if wrong:
            raise Failed(1, text)
    return detached


def _up_options(
    session: ComposeSession, options: Options, project: Project, services: list[str]
) -> UpOptions:
    """The flags that ``up`` and ``create`` share, applied to the project."""
    if options.given("pull"):
        if options.text("pull") not in _PULLS:
            raise Failed(1, f'invalid --pull option "{options.text("pull")}"')
        for service in project.services.values():
            service["pull_policy"] = options.text("pull")
    if options.flag("build"):
        for service in project.services.values():
            if "build" in service:
                service["pull_policy"] = "build"
    for text in options.many("scale"):
        set_scale(project, text)
    remove = options.flag("remove-orphans")
    if not options.given("remove-orphans"):
        remove = switch("COMPOSE_REMOVE_ORPHANS")
    ignore = switch("COMPOSE_IGNORE_ORPHANS", project.environment.get)
    if remove and ignore:
        raise Failed(1, "cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans")
    never, force = options.flag("no-recreate"), options.flag("force-recreate")
    renew = options.flag("renew-anon-volumes")
    return UpOptions(
        services=services,
        recreate=NEVER if never else FORCE if force or renew else DIVERGED,
        recreate_dependencies=NEVER if never
        else FORCE if options.flag("always-recreate-deps") else DIVERGED,
        inherit=not renew,
        remove_orphans=remove,
        ignore_orphans=ignore,
        confirm=(lambda _: True) if options.flag("yes") else session.confirm,
    )  # fmt: skip


def _tools(session: ComposeSession, project: Project, options: Options) -> ImageTools:
    """How images are obtained, by the flags."""
    force = options.flag("build")
    return image_tools(
        session,         project, quiet=options.flag("quiet-pull"), force_build=force,
        builds=not options.flag("no-build"),
    )  # fmt: skip


def set_scale(project: Project, text: str) -> None:
    """``SERVICE=NUM`` into the project. Raises Failed, ComposeError."""
    name, separator, number = text.partition("=")
    if not separator or "=" in number:
        raise Failed(1, f'invalid --scale option "{text}". Should be SERVICE=NUM')
    if not number.isdecimal():
        raise ComposeError(f'invalid --scale option "{text}": {number!r} is not a number')
    service = project.service(name)
    service["scale"] = int(number)
    if service.get("deploy") is not None:
        service["deploy"]["replicas"] = int(number)


@compose_verb("create", usage="[OPTIONS] [SERVICE...]", about="Create containers for services",
              flags=_CREATE)  # fmt: skip
def create(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    if options.flag("build") and options.flag("no-build"):
        raise Failed(1, "--build and --no-build are incompatible")
    if options.flag("force-recreate") and options.flag("no-recreate"):
        raise Failed(1, "--force-recreate and --no-recreate are incompatible")
    project = session.load(arguments)
    choices = _up_options(session, options, project, arguments)
    tools = _tools(session, project, options)
    session.board("Creating")
    bringing_up.create(session.actions(project), choices, tools, session.parallel)
    return 0


@compose_verb("scale", usage="[SERVICE=REPLICAS...]", about="Set how many containers services have",
              arguments=(1, None), flags="""
      --no-deps   Leave dependencies alone
""")  # fmt: skip
def scale(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    names = []
    for text in arguments:
        name, separator, number = text.partition("=")
        if not separator or not number.isdecimal():
            raise Failed(1, f"invalid scale specifier: {text}")
        names.append(name)
    project = session.load(names, dependencies=not options.flag("no-deps"))
    for text in arguments:
        set_scale(project, text)
    actions = session.actions(project)
    tools = image_tools(session, project)
    bringing_up.up(actions, UpOptions(services=names, rolls=True), tools, session.parallel)
    return 0


@compose_verb("down", usage="[OPTIONS] [SERVICES]", about="Stop and remove containers and networks",
              flags="""
      --remove-orphans   Remove containers of services that the files do not define
      --rmi string       Also remove images: all, or local for images without a name in the files
  -t, --timeout int      Seconds to wait for a container to stop
  -v, --volumes          Remove the project's volumes, named and anonymous
""")  # fmt: skip
def down(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    from portside.compose import teardown
    from portside.compose.labelled_project import labelled

    images = options.text("rmi")
    if images not in ("", "all", "local"):
        raise Failed(1, f'invalid value for --rmi: "{images}"')
    remove = options.flag("remove-orphans")
    if not options.given("remove-orphans"):
        remove = switch("COMPOSE_REMOVE_ORPHANS")
    project, name = session.project_or_name(arguments)
    services = arguments
    if project is None:
        project = labelled(session.pool, name)
        services = [item for item in arguments if item in project.services]
        if arguments and not services:
            return 0
    actions = session.actions(project, timeout=options.number("timeout"))
    choices = teardown.DownOptions(services, options.flag("volumes"), remove, images)
    teardown.down(actions, choices, session.parallel)
    return 0
