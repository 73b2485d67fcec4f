"""What `forgeline doctor` looks at."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

NEEDED_DISK_GB = 3
NEEDED_MEMORY_GB = 4
INSTALL = "make install"


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and the command that mends it if it is not as it must be."""

    name: str
    ok: bool
    found: str
    mend: str = ""


def examine() -> list[Check]:
    """Return what this machine has of all that a run needs."""
    return [_python(), *_packages(), _git(), *_hardware(), _disk(), _project()]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), found, "" if sys.version_info >= (3, 11) else "use Python 3.11")


def _packages() -> list[Check]:
    checks = []
    for requirement in map(Requirement, requires("forgeline") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            checks.append(Check(requirement.name, False, "not installed", INSTALL))
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        checks.append(
            Check(requirement.name, fits, found, "" if fits else f"{INSTALL}  (needs {requirement.specifier})")
        )
    return checks


def _git() -> Check:
    found = shutil.which("git")
    return Check("git", found is not None, found or "not found", "" if found else "install git, then run again")


def _hardware() -> list[Check]:
    import psutil
    import torch

    from forgeline.models.load import fastest_precision

    memory = psutil.virtual_memory().available / 1e9
    gpu = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else "none (not needed: the default runs on the CPU)"
    )
    return [
        Check("cpu", True, f"{os.cpu_count()} cores, fastest in {fastest_precision()}"),
        Check("gpu", True, gpu),
        Check(
            "memory",
            memory >= NEEDED_MEMORY_GB,
            f"{memory:.0f} GB free",
            "" if memory >= NEEDED_MEMORY_GB else f"free {NEEDED_MEMORY_GB} GB, or set train.batch_size lower",
        ),
    ]


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    mend = "" if free >= NEEDED_DISK_GB else f"free {NEEDED_DISK_GB} GB: make clean removes what can be rebuilt"
    return Check("disk", free >= NEEDED_DISK_GB, f"{free:.0f} GB free", mend)


def _project() -> Check:
    from forgeline.config import load
    from forgeline.errors import ConfigError

    try:
        config = load()
    except ConfigError as error:
        return Check("project", False, str(error).splitlines()[0], "forgeline validate")
    return Check("project", True, f"{config.project.name} in {config.root}")
