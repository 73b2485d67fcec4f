"""The images: what their Dockerfiles must not do, and what hadolint says of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import faults

PROJECT = Path(__file__).parents[2]
DOCKERFILES = sorted(path for path in (PROJECT / "deploy").rglob("*Dockerfile*") if path.is_file())
PINNED = "python:3.11-slim@sha256:" + "a" * 64


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_and_without_root_and_secrets(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["FROM python:3.11-slim", "USER 1000"], "FROM python:3.11-slim: not by digest"),
        (["ARG BASE=python:latest", "FROM ${BASE}", "USER 1000"], "FROM python:latest: not by digest"),
        (["FROM $BASE", "USER 1000"], "FROM $BASE: not by digest"),
        ([f"FROM {PINNED}"], "USER root: not a number above 0"),
        ([f"FROM {PINNED}", "USER nobody"], "USER nobody: not a number above 0"),
        ([f"FROM {PINNED} AS made", "USER 1000", "FROM made"], "USER root: not a number above 0"),
        ([f"FROM {PINNED}", "ENV A=1 \\", "  API_KEY=x", "USER 1000"], "ENV API_KEY: a secret would lie in a layer"),
        ([f"FROM {PINNED}", "ARG HUB_TOKEN", "USER 1000"], "ARG HUB_TOKEN: a secret would lie in a layer"),
        ([f"FROM {PINNED}", "ADD https://a.example/b /b", "USER 1"], "ADD https://a.example/b /b: a download that"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_found(lines: list[str], fault: str) -> None:
    [found] = faults("\n".join(lines))
    assert found.startswith(fault)


def test_a_base_that_must_be_given_is_enough() -> None:
    assert faults("ARG BASE\nFROM ${BASE} AS build\nRUN make\nFROM build\nUSER 1000:1000\n") == []


def test_hadolint_finds_nothing() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["hadolint", *map(str, DOCKERFILES)]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
