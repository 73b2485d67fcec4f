"""What no image of ours does, read from its Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Iterator

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
SECRET = re.compile(r"password|passwd|secret|token(?!izer)|credential|api_?key|private_?key", re.IGNORECASE)


def faults(text: str) -> list[str]:
    """Return what is wrong with a Dockerfile: a base that may change, root at the end, secrets in layers, downloads."""
    found, stages, given, user = [], set[str](), dict[str, str | None](), "root"
    for instruction, words in instructions(text):
        match instruction:
            case "ARG" | "ENV":
                found += [f"{instruction} {word}: a secret would lie in a layer" for word in named(words)]
                if instruction == "ARG" and not stages:
                    name, has, value = words[0].partition("=")
                    given[name] = value.strip("\"'") if has else None
            case "FROM":
                image = next(word for word in words if not word.startswith("--"))
                if argument := re.fullmatch(r"\$\{?(\w+)\}?", image):
                    image = given.get(argument[1], "") or image
                    # One without a default must be given: a digest, as told.
                    pinned = argument[1] in given and (given[argument[1]] is None or DIGEST.search(image))
                else:
                    pinned = image in stages or image == "scratch" or DIGEST.search(image)
                if not pinned:
                    found.append(f"FROM {image}: not by digest")
                stages.add(words[-1] if words[-2:-1] == ["AS"] or words[-2:-1] == ["as"] else image)
                user = "root"
            case "USER":
                user = words[0]
            case "ADD" if any(re.match(r"https?://|git@|\S+\.git$", word) for word in words):
                found.append(f"ADD {' '.join(words)}: a download that nobody checked")
    if not re.fullmatch(r"[1-9]\d*(:\d+)?", user):  # a number: Kubernetes can tell that it is not root
        found.append(f"USER {user}: not a number above 0")
    return found


def named(words: list[str]) -> list[str]:
    return [word for word in (each.partition("=")[0] for each in words) if SECRET.search(word)]


def instructions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every instruction and its words, lines that go on put together."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if words := line.split():
            yield words[0].upper(), words[1:]
