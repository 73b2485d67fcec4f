"""The data step: DVC decides which stages run; the hashes it returns key everything after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zenml import step

from forgeline.data.versions import DataVersion, prepare


@step(enable_cache=False)
def prepare_data() -> Annotated[DataVersion, "data_version"]:
    """Bring the dataset version up to date."""
    version = prepare(Path.cwd())
    print(f"data {version.digest[:12]}: " + ", ".join(f"{name} {count}" for name, count in version.counts.items()))
    return version
