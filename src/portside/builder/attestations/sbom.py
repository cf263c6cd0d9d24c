"""A list of what is in an image: SPDX 2.3 (spdx.github.io/spdx-spec), as an attestation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from portside.builder.attestations.package_readers import Distribution, Found, Package
from portside.builder.results import Attestation
from portside.builder.solver.tree import Tree, digest_of
from portside.model.digest import Digest
from portside.model.errors import InvalidParameter
from portside.model.golang.timestamps import format_rfc3339
from portside.model.reference import Reference
from portside.model.rootfs import Rootfs
from portside.store.worker_pool import Job

if TYPE_CHECKING:
    from portside.store.store import Store

PREDICATE = "https://spdx.dev/Document"
GENERATORS = ("", "docker/buildkit-syft-scanner", "portside")
"""Generators that a client may name; the built-in reader makes the SBOM for all of them."""


class ReadPackages(Job, kw_only=True):
    """Find the packages that are installed in a tree."""

    result: ClassVar[type] = Found
    rootfs: Rootfs

    def run(self, fds: list[int], progress: Callable[[int], None]) -> Found:
        from portside.builder.attestations.package_readers import read_packages

        return read_packages(self.rootfs)


def check_generator(text: str) -> None:
    """InvalidParameter when ``--sbom`` names another scanner."""
    pairs = (part.partition("=") for part in text.split(","))
    generator = {key: value for key, _, value in pairs}.get("generator", "")
    name = Reference.parse(generator).familiar_name if generator else ""
    if name not in GENERATORS:
        raise InvalidParameter(
            f"the SBOM generator {generator} is not supported: use --sbom=true for the built-in one"
        )


async def sbom(store: Store, tree: Tree, created: float) -> Attestation:
    """The packages of a tree. ``created``: seconds since the epoch."""
    if not tree.chain:
        found = Found(Distribution(), ())
    else:
        job = ReadPackages(rootfs=store.layers.rootfs(Digest(tree.chain)))
        found = await store.workers.run(job)
    return Attestation(predicate_type=PREDICATE, predicate=document(found, tree.chain, created))


def document(found: Found, chain: str, created: float) -> dict[str, Any]:
    """The SPDX document."""
    packages = [_package(package, found.distribution) for package in found.packages]
    names = [item["SPDXID"] for item in packages]
    relations = [
        {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
         "relatedSpdxElement": name}
        for name in names
    ]  # fmt: skip
    identity = digest_of(chain, *(f"{p.kind}/{p.name}@{p.version}" for p in found.packages))
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "sbom",
        "documentNamespace": f"https://portside.invalid/sbom/{identity.partition(':')[2]}",
        "creationInfo": {
            "creators": ["Organization: Portside", "Tool: portside"],
            "created": format_rfc3339(int(created) * 10**9),
        },
        "packages": packages,
        "relationships": relations,
    }


def _package(package: Package, distribution: Distribution) -> dict[str, Any]:
    identity = digest_of(*(str(part) for part in (
        package.kind, package.name, package.version, package.place)))[7:23]  # fmt: skip
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", package.name)
    licence = package.license if re.fullmatch(r"[A-Za-z0-9.+-]+", package.license) else ""
    return {
        "name": package.name,
        "SPDXID": f"SPDXRef-Package-{package.kind}-{plain}-{identity}",
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "sourceInfo": f"acquired package info from {package.place}",
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence or "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(package, distribution),
            }
        ],
    }


def purl(package: Package, distribution: Distribution) -> str:
    """A package URL (github.com/package-url/purl-spec)."""
    name, space = quote(package.name, safe="/"), ""
    query = []
    if package.kind in ("deb", "apk"):
        space = f"{distribution.id or ('debian' if package.kind == 'deb' else 'alpine')}/"
        if package.architecture:
            query.append(f"arch={package.architecture}")
        if distribution.id:
            query.append(f"distro={distribution.id}-{distribution.version}")
    found = f"pkg:{package.kind}/{space}{name}@{quote(package.version, safe='')}"
    return f"{found}?{'&'.join(query)}" if query else found
