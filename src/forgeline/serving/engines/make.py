"""From an engine's settings to the engine; what each needs is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from forgeline.config.schema.serve import Engine as Settings
from forgeline.serving.bundle import Manifest
from forgeline.serving.engines import Engine


def made(settings: Settings, bundle: Path, manifest: Manifest) -> Engine:
    """Return the engine that serves a verified bundle; a relative base model is found below the working folder."""
    from forgeline.serving.engines.embedded import Embedded
    from forgeline.serving.engines.transformers import Rows

    return Embedded(settings.name, Rows(bundle, Path.cwd(), manifest, settings.adapters))
