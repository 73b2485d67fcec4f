from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forgeline.config import load
from forgeline.config.schema import Clean, Data, NearDuplicates
from forgeline.data import table
from forgeline.data.clean import clean_into
from forgeline.data.layout import CACHE, RAW

PARTS = 12


@pytest.fixture
def config() -> Data:
    shipped = load(Path(__file__).parents[2]).data
    return shipped.model_copy(update={"clean": Clean(near_duplicates=NearDuplicates())})


def raw(root: Path) -> Path:
    """Write raw parts with copies that lie in other parts."""
    for part in range(PARTS):
        rows = []
        for number in range(60):
            said = (
                f"The table for guest {number} stands ready, {'as you asked ' * (part % 3)}by the window {number % 7}."
            )
            turns = [{"role": "user", "content": f"Book {number}."}, {"role": "assistant", "content": said}]
            rows.append({"id": f"{part}-{number}", "key": str(number), "messages": turns, "origin": {"line": number}})
        table.write(root / RAW / f"rows/{part:05d}.parquet", table.from_rows(rows))
    return root


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine, which misses a lost node soon."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    memory = {"object_store_memory": 100 << 20}
    head = {"num_cpus": 1, "_system_config": health, "include_dashboard": False, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, **memory)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_cluster_that_loses_a_node_writes_the_same_bytes(tmp_path: Path, config: Data, cluster: Any) -> None:
    alone, together = raw(tmp_path / "alone"), raw(tmp_path / "together")
    clean_into(alone / "data/clean", alone, config.model_copy(update={"workers": 1}))
    killed = threading.Event()

    def kill_a_node() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed.is_set():
            done = len(list((together / CACHE).glob("mended/*.counts.json")))
            if 0 < done < PARTS:
                cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
                killed.set()
            time.sleep(0.02)

    killer = threading.Thread(target=kill_a_node)
    killer.start()
    report = clean_into(together / "data/clean", together, config.model_copy(update={"engine": "ray"}))
    killer.join()
    assert killed.is_set() and report["rows"]["in"] == 60 * PARTS
    assert written(together / "data/clean") == written(alone / "data/clean")
