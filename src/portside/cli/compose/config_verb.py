"""config: the project in its canonical form, or a part of it."""

from __future__ import annotations

from portside.cli.compose.compose_verbs import compose_verb
from portside.cli.session import Failed
from portside.client.client import path_of
from portside.compose import config_output
from portside.compose.requests import image_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from portside.cli.compose.compose_session import ComposeSession
    from portside.compose.project import Project
    from portside.flags.table import Options


@compose_verb("config", usage="[OPTIONS] [SERVICE...]",
              about="Check the files, and print the project in its canonical form", flags="""
      --environment             Print the variables that the files can use
      --format string           yaml or json
      --hash string             Print the hashes of these services, * for all of them
      --images                  Print the names of images
      --lock-image-digests      Print a file that pins images to their digests
      --models                  Print the names of models
      --networks                Print the names of networks
      --no-consistency          Do not check whether the parts fit together
      --no-env-resolution       Do not read env_file of services
      --no-interpolate          Leave variables as they are
      --no-normalize            Do not fill in what is implied
      --no-path-resolution      Leave paths as they are
  -o, --output string           Write to a file, not to standard output
      --profiles                Print the names of profiles
  -q, --quiet                   Check the files only
      --resolve-image-digests   Pin images to their digests
      --services                Print the names of services
      --variables               Print the variables that the files use, and their defaults
      --volumes                 Print the names of volumes
""")  # fmt: skip
def config(session: ComposeSession, options: Options, arguments: list[str]) -> int:
    listed = next((name for name in _LISTS if options.flag(name)), "")
    if listed:
        project = _load(session, options, arguments if listed in _CHOOSING else [])
        _print(session, options, "\n".join(_LISTS[listed](project)))
    elif options.text("hash"):
        _hashes(session, options)
    elif options.flag("variables"):
        _variables(session, options)
    else:
        _canonical(session, options, arguments)
    return 0


def _profiles(project: Project) -> list[str]:
    services = (*project.services.values(), *project.disabled.values())
    return sorted({name for service in services for name in service.get("profiles") or ()})


def _images(project: Project) -> list[str]:
    return [
        image_of(project, name, service) for name, service in project.services.items()
        if "provider" not in service
    ]  # fmt: skip


_LISTS: dict[str, Any] = {
    "services": lambda project: list(project.services),
    "volumes": lambda project: list(project.volumes),
    "networks": lambda project: list(project.networks),
    "models": lambda project: [item["model"] for item in project.models.values()
                               if item.get("model")],
    "profiles": _profiles,
    "images": _images,
    "environment": lambda project: sorted(
        f"{name}={value}" for name, value in project.environment.items()
    ),
}  # fmt: skip
"""What can be listed, in the order in which one of several is chosen."""
_CHOOSING = ("profiles", "images", "environment")
"""Lists that are of the chosen services only."""


def _load(session: ComposeSession, options: Options, names: list[str], **more: Any) -> Project:
    return session.load(
        names,
        checks=not options.flag("no-consistency"),
        environment=not options.flag("no-env-resolution"),
        **more,
    )


def _print(session: ComposeSession, options: Options, text: str) -> None:
    """Text to where it is wanted."""
    if options.flag("quiet") or not text:
        return
    if path := options.text("output"):
        with open(path, "w") as file:
            file.write(text if text.endswith("\n") else f"{text}\n")
    else:
        session.out(text.removesuffix("\n"))


def _hashes(session: ComposeSession, options: Options) -> None:
    project = _load(session, options, [])
    wanted = options.text("hash")
    names = list(project.services) if wanted == "*" else sorted(wanted.split(","))
    lines = [f"{name} {config_output.service_hash(project.service(name))}" for name in names]
    _print(session, options, "\n".join(lines))


def _variables(session: ComposeSession, options: Options) -> None:
    from portside.cli import table
    from portside.compose.interpolation import variables

    project = session.load((), environment=False, interpolates=False, checks=False)
    found = dict(sorted(variables(project.tree).items()))
    if options.text("format") in ("json", "yaml"):
        values = {
            name: {"Name": name, "DefaultValue": item["default"],
                   "PresenceValue": item["presence"], "Required": item["required"]}
            for name, item in found.items()
        }  # fmt: skip
        is_json = options.text("format") == "json"
        text = config_output.go_json(values) if is_json else config_output.to_yaml(values)
        _print(session, options, text)
        return
    lines = ["NAME\tREQUIRED\tDEFAULT VALUE\tALTERNATE VALUE"]
    lines += [
        f"{name}\t{'true' if item['required'] else 'false'}\t{item['default']}\t{item['presence']}"
        for name, item in found.items()
    ]  # fmt: skip
    _print(session, options, "\n".join(table.aligned(lines, 20, 3)))


def _canonical(session: ComposeSession, options: Options, names: list[str]) -> None:
    kind = options.text("format", "yaml")
    if kind not in ("yaml", "json"):
        raise Failed(1, f'unsupported format "{kind}"')
    interpolates = not options.flag("no-interpolate")
    project = _load(session, options, names, interpolates=interpolates)
    if options.flag("resolve-image-digests") or options.flag("lock-image-digests"):
        _pin(session, project)
    if options.flag("lock-image-digests"):
        values: dict[str, Any] = {
            "services": {name: {"image": service["image"]}
                         for name, service in project.services.items() if service.get("image")}
        }  # fmt: skip
    else:
        values = config_output.encoded(project, kind == "json")
    text = config_output.go_json(values, 2) if kind == "json" else config_output.to_yaml(values)
    _print(session, options, text.replace("$", "$$") if interpolates else text)


def _pin(session: ComposeSession, project: Project) -> None:
    """Put the digests that registries know into the images' names."""
    from portside.cli import auth, references

    for service in project.services.values():
        image = service.get("image")
        if not image or "@" in image:
            continue
        name = references.canonical(image)
        with session.pool.client() as client:
            response = client.request("GET", f"{path_of('distribution', name)}/json",
                                      headers=auth.header(session.config, image))  # fmt: skip
            found = client._value(response)
        service["image"] = f"{name}@{found['Descriptor']['digest']}"
