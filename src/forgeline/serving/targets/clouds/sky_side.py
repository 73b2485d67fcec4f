"""SkyPilot's side of the target: a program of its environment, which has no Forgeline, so it imports nothing of it.

`python sky_side.py VERB OUT NAME [TASK]`: what the verb gives is written to OUT as JSON. Checked with SkyPilot 0.14.1.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import sky
import yaml
from sky import serve


def check(name: str, path: str) -> str:
    """Hold a task against SkyPilot's own schemas, and have it read; return SkyPilot's version."""
    from sky.utils import common_utils, schemas

    task = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    task["secrets"] = dict.fromkeys(task.get("secrets", {}), "")
    for schema, part, about in (
        (schemas.get_task_schema(), task, "service.yaml: "),
        (schemas.get_service_schema(), task["service"], "service.yaml: service: "),
        (schemas.get_resources_schema(), task["resources"], "service.yaml: resources: "),
    ):
        common_utils.validate_schema(part, schema, about)
    sky.Task.from_yaml_config(task)
    return str(sky.__version__)


def up(name: str, path: str) -> None:
    """Make the service."""
    sky.stream_and_get(serve.up(_task(path), name))


def update(name: str, path: str) -> None:
    """Change it: traffic moves once enough new replicas are ready."""
    sky.stream_and_get(serve.update(_task(path), name, mode=serve.UpdateMode.BLUE_GREEN))


def status(name: str) -> dict[str, Any] | None:
    """Return what is known of the service, None if there is none."""
    found = sky.get(serve.status([name]))
    if not found:
        return None
    seen = found[0]
    replicas = [
        {"id": each["replica_id"], "status": each["status"].value, "version": each["version"]}
        for each in seen["replica_info"]
    ]
    return {
        "status": seen["status"].value,
        "endpoint": seen["endpoint"],
        "versions": seen["active_versions"],
        "replicas": replicas,
    }


def logs(name: str, lines: str) -> str:
    """Return the last lines of each replica that is there."""
    seen, text = status(name), io.StringIO()
    for replica in (seen or {"replicas": []})["replicas"]:
        component = serve.ServiceComponent.REPLICA
        serve.tail_logs(name, component, replica["id"], follow=False, output_stream=text, tail=int(lines))
    return text.getvalue()


def down(name: str) -> None:
    """End the service and its machines."""
    sky.stream_and_get(serve.down([name]))


def _task(path: str) -> Any:
    told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    secrets = [(name, os.environ[name]) for name in told.get("secrets", {})]
    return sky.Task.from_yaml_config(told, secrets_overrides=secrets)


VERBS: dict[str, Any] = {"check": check, "up": up, "update": update, "status": status, "logs": logs, "down": down}

if __name__ == "__main__":
    verb, out, *arguments = sys.argv[1:]
    try:
        gave = VERBS[verb](*arguments)
    except Exception as fault:
        sys.exit(f"{fault}".strip() or type(fault).__name__)
    Path(out).write_text(json.dumps(gave), encoding="utf-8")
