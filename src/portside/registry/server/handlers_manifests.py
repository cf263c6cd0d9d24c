"""``/v2/…``: the version check, manifests, tags, referrers, the catalog and tokens."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from aiohttp import web
from multidict import CIMultiDict

from portside.model.digest import Digest
from portside.registry.server import manifests, schema2
from portside.registry.server.auth import ANONYMOUS
from portside.registry.server.context import json_answer, location, registry_of, repository_for
from portside.registry.server.errors import RegistryError
from portside.registry.server.handlers_blobs import (
    not_modified,
    require_deletes,
    require_writes,
    unchanged,
)
from portside.registry.server.names import (
    check_digest,
    check_reference,
    check_tag,
    known_reference,
    lexical,
)
from portside.registry.server.request_context import IDENTITY, own_url

_MOST = 1000
"""Entries of a page at the most."""


async def version(request: web.Request) -> web.Response:
    """``GET /v2/``: this is a registry, and the credentials are good."""
    registry, identity = registry_of(request), request[IDENTITY]
    nobody = identity.user == ANONYMOUS and identity.grants is None
    if nobody and registry.authority.enabled:
        challenge = registry.authority.challenge(own_url(request))
        raise RegistryError("UNAUTHORIZED", headers=challenge)
    return json_answer({})


async def get_manifest(request: web.Request) -> web.Response:
    repository = repository_for(request, "pull")
    registry = registry_of(request)
    reference = known_reference(request.match_info["reference"])
    if registry.upstream is not None:
        await registry.upstream.manifest(repository, reference)
    parsed = await repository.manifest(reference)
    types = schema2.accepted(request.headers.getall("Accept", []))
    if not isinstance(reference, Digest) and schema2.takes_schema2_alone(types):
        parsed = await schema2.as_schema2(repository, parsed)
    headers = {
        "Content-Type": parsed.media_type,
        "Docker-Content-Digest": parsed.digest,
        "ETag": f'"{parsed.digest}"',
        "Vary": "Accept",
    }
    if not_modified(request, parsed.digest):
        return unchanged(headers)
    registry.webhooks.manifest("pull", request, repository.name, parsed, _tag(reference))
    return web.Response(body=parsed.data, headers=headers)


def _tag(reference: str | Digest) -> str | None:
    return None if isinstance(reference, Digest) else reference


async def put_manifest(request: web.Request) -> web.Response:
    repository = repository_for(request, "pull", "push")
    registry = registry_of(request)
    require_writes(request)
    reference = check_reference(request.match_info["reference"])
    data = await request.content.read(manifests.MAX_SIZE + 1)
    while len(data) <= manifests.MAX_SIZE and (more := await request.content.read(1 << 16)):
        data += more
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    parsed = manifests.parse(data, request.headers.get("Content-Type", ""), algorithm)
    if isinstance(reference, Digest) and parsed.digest != reference:
        detail = {"expected": reference, "actual": parsed.digest}
        raise RegistryError("DIGEST_INVALID", detail)
    tags = _tags(request, reference)
    async with registry.content.guard.together():
        await repository.put_manifest(parsed, tags)
    for tag in tags or (None,):
        registry.webhooks.manifest("push", request, repository.name, parsed, tag)
        registry.audit.note(
            request,
            "push",
            repository.name,
            tag or str(reference),
            digest=parsed.digest,
            size=len(data),
        )
    headers = CIMultiDict(
        {
            "Location": location(request, f"/v2/{repository.name}/manifests/{parsed.digest}"),
            "Docker-Content-Digest": parsed.digest,
            "Content-Length": "0",
        }
    )
    if parsed.subject is not None:
        headers["OCI-Subject"] = parsed.subject
    if isinstance(reference, Digest):
        headers.extend([("OCI-Tag", tag) for tag in tags])
    return web.Response(status=201, headers=headers)


def _tags(request: web.Request, reference: str | Digest) -> list[str]:
    """The tags a manifest is pushed for: the URL's, or the ones a push by digest asks for."""
    if not isinstance(reference, Digest):
        return [reference]
    tags = list(dict.fromkeys(request.query.getall("tag", [])))
    for tag in tags:
        check_tag(tag)
    return tags


async def delete_manifest(request: web.Request) -> web.Response:
    """DELETE of a tag forgets the tag; of a digest, the manifest and all its tags."""
    repository = repository_for(request, "delete")
    registry = registry_of(request)
    require_deletes(request)
    reference = known_reference(request.match_info["reference"])
    async with registry.content.guard.alone():
        if isinstance(reference, Digest):
            tags = await repository.delete_manifest(reference)
        else:
            await repository.delete_tag(reference)
            tags = []
    for gone in (reference, *tags):
        registry.webhooks.deleted(request, repository.name, gone)
    registry.audit.note(request, "delete", repository.name, str(reference))
    return web.Response(status=202, headers={"Content-Length": "0"})


async def list_tags(request: web.Request) -> web.Response:
    repository = repository_for(request, "pull")
    registry = registry_of(request)
    if registry.upstream is not None:
        names = await registry.upstream.tags(repository)
    else:
        names = await repository.tag_names()
    page, link = _page(request, names, f"/v2/{repository.name}/tags/list")
    answer = json_answer({"name": repository.name, "tags": page})
    answer.headers.update(link)
    return answer


async def catalog(request: web.Request) -> web.Response:
    registry, identity = registry_of(request), request[IDENTITY]
    if not registry.authority.may_list(identity):
        challenge = registry.authority.challenge(
            own_url(request), "registry:catalog:*", is_narrow=identity.is_bearer
        )
        raise RegistryError("UNAUTHORIZED", headers=challenge)
    whose, allowed = registry.authority.behind(identity), registry.authority.allowed
    names = [n for n in await registry.content.repositories() if "pull" in allowed(whose, n)]
    page, link = _page(request, names, "/v2/_catalog")
    answer = json_answer({"repositories": page})
    answer.headers.update(link)
    return answer


def _page(request: web.Request, names: list[str], path: str) -> tuple[list[str], dict[str, str]]:
    """One page of sorted names and the Link header to the next page.

    distribution-spec, "Content Discovery"; raises PAGINATION_NUMBER_INVALID.
    """
    text = request.query.get("n", "")
    if text and not (text.isascii() and text.isdigit()):
        raise RegistryError("PAGINATION_NUMBER_INVALID", {"n": text})
    count = min(int(text[:9]), _MOST) if text else _MOST
    last = request.query.get("last", "")
    rest = [name for name in names if lexical(name) > lexical(last)] if last else names
    page = rest[:count]
    if not page or len(rest) <= len(page):
        return page, {}
    query = urlencode({"n": count, "last": page[-1]}, quote_via=quote)
    return page, {"Link": f'<{path}?{query}>; rel="next"'}


async def list_referrers(request: web.Request) -> web.Response:
    repository = repository_for(request, "pull")
    subject = check_digest(request.match_info["digest"])
    found = await repository.referrers(subject)
    wanted = request.query.get("artifactType")
    entries = [p.descriptor() for p in found if not wanted or p.artifact_type == wanted]
    index = {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": entries}
    answer = json_answer(index, content_type=manifests.OCI_INDEX)
    if wanted:
        answer.headers["OCI-Filters-Applied"] = "artifactType"
    return answer


async def token(request: web.Request) -> web.Response:
    """``GET`` and ``POST /token``: issue a bearer token for what was asked and is allowed."""
    authority = registry_of(request).authority
    identity = request[IDENTITY]
    scopes = request.query.getall("scope", [])
    if request.method == "POST":
        form = await request.post()
        scopes = [part for value in form.getall("scope", []) for part in str(value).split()]
        kind = str(form.get("grant_type", "password"))
        if kind != "password":
            raise RegistryError("UNAUTHORIZED", message=f"grant_type {kind} is not supported")
        if "username" in form:
            user, password = str(form.get("username", "")), str(form.get("password", ""))
            import base64

            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            identity = await authority.identify(f"Basic {pair}")
    return json_answer(authority.issue(identity, [s for scope in scopes for s in scope.split()]))


def routes() -> list[web.RouteDef]:
    name = r"/v2/{name:.+}"
    return [
        web.get("/v2/", version),
        web.get("/v2", version),
        web.get("/v2/_catalog", catalog),
        web.get("/token", token),
        web.post("/token", token),
        web.get(name + "/manifests/{reference}", get_manifest),
        web.put(name + "/manifests/{reference}", put_manifest),
        web.delete(name + "/manifests/{reference}", delete_manifest),
        web.get(name + "/tags/list", list_tags),
        web.get(name + "/referrers/{digest}", list_referrers),
    ]
