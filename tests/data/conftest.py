from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]


Write = Callable[[Path, list[Any]], None]


@pytest.fixture
def write_rows() -> Write:
    """A function that puts rows, or lines as they stand, into a project's source folder."""

    def write(root: Path, rows: list[Any]) -> None:
        path = root / "data" / "source" / "rows.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    return write


@pytest.fixture
def pairs() -> list[dict[str, str]]:
    return [{"prompt": f"What is number {n}?", "completion": f"It is the number {n} , sir ."} for n in range(60)]


@pytest.fixture
def project(tmp_path: Path, write_rows: Write, pairs: list[dict[str, str]]) -> Path:
    """A project of its own: the shipped configuration over a small JSON-lines source."""
    root = tmp_path / "project"
    shutil.copytree(REPOSITORY / "configs", root / "configs")
    data = yaml.safe_load((root / "configs/data.yaml").read_text())
    data["fetch"] = {"sources": {"rows": {"uri": "data/source/*.jsonl"}}}
    data["split"] |= {"validation": 0.2, "test": 0.2}
    (root / "configs/data.yaml").write_text(yaml.safe_dump(data))
    write_rows(root, pairs)
    return root


@pytest.fixture
def versioned(project: Path) -> Path:
    """The same project under DVC, with the shipped stages."""
    from dvc.repo import Repo

    kept = ("data/benchmarks", "data/frozen", "data/review", "data/erased")
    sources = ("src/forgeline", "dvc.yaml", ".dvcignore", *kept)
    for name in sources:
        source, target = REPOSITORY / name, project / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    Repo.init(str(project), no_scm=True).close()
    return project
