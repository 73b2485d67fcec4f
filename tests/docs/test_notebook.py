"""The guided tour runs, in the project where the smoke run has finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

if TYPE_CHECKING:
    from conftest import Project

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_first_run.ipynb"


@pytest.fixture(scope="module")
def cells(smoke_project: Project) -> dict[str, list[Any]]:
    """The outputs by cell; all are run but the one that stops the server, which other tests still ask."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "stop" not in cell.metadata.get("tags", [])]
    folder = smoke_project.root / "notebooks"
    folder.mkdir(exist_ok=True)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**smoke_project.env, "FORGELINE_PROFILE": "smoke"})
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def said(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_it_reuses_the_finished_run_and_shows_its_verdicts(cells: dict[str, list[Any]], smoke_project: Project) -> None:
    run = json.loads((smoke_project.root / "run.json").read_text(encoding="utf-8"))
    assert f"promoted: every gate passed; version {run['version']}," in said(cells["run-it"])
    assert "bleu_beats_base" in cells["run-it"][-1].data["text/plain"]


@pytest.mark.parametrize("cell", ["bias-chart", "metrics-plot", "loss-curve"])
def test_it_draws(cells: dict[str, list[Any]], cell: str) -> None:
    assert len(cells[cell][-1].data["image/png"]) > 5_000


def test_the_live_model_answers(cells: dict[str, list[Any]]) -> None:
    answer, usage = said(cells["question"]).strip().rsplit("\n", 1)
    assert answer
    assert "completion_tokens=" in usage


def test_the_chain_of_evidence_is_whole(cells: dict[str, list[Any]]) -> None:
    assert "auto_system_template_nlg.json" in cells["lineage-down"][-1].data["text/plain"]
    assert "live_version_saw_it" in cells["lineage-up"][-1].data["text/plain"]


def test_nothing_complains(cells: dict[str, list[Any]]) -> None:
    complaints = {
        name: output.text
        for name, outputs in cells.items()
        for output in outputs
        if output.output_type == "stream" and output.name == "stderr"
    }
    assert complaints == {}


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []
