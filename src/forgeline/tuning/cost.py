"""What a training run spends: time, energy, memory and money, all its starts together.

Energy comes from codecarbon, which asks the hardware's counters where there are any and estimates where there are none.
It is the whole machine's, as the price is. Nothing leaves the machine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from codecarbon import OfflineEmissionsTracker
from codecarbon.core import cpu, gpu
from codecarbon.input import DataSource
from codecarbon.output_methods.base_output import BaseOutput
from codecarbon.output_methods.emissions_data import EmissionsData
from pydantic import BaseModel

from forgeline.config.schema import Cost, Train
from forgeline.errors import TuningError
from forgeline.records import write_json

FILE = "spent.json"
SECONDS = 2.0  # between two looks: a kill loses no more of the account, and a look takes 2 ms
GB = 1e9


class Spent(BaseModel):
    """What a training run took, up to now or to its end.

    `seconds` is wall time; `processor_seconds` add up over cores, the process and its children. `peak_memory_gb`
    (10^9 bytes) is what tensors took on a GPU, and elsewhere the most that the process and its children were seen to
    hold. `money` is the machine's price for the time, its power included. `energy_source` says what of the energy was
    measured and what estimated.
    """

    machine: str
    currency: str
    energy_source: str
    seconds: float = 0.0
    processor_seconds: float = 0.0
    tokens: int = 0
    kwh: float = 0.0
    co2_kg: float = 0.0
    peak_memory_gb: float = 0.0
    money: float = 0.0

    def metrics(self) -> dict[str, float]:
        """Return the numbers by their names in an MLflow run."""
        return {f"cost_{name}": float(value) for name, value in self if not isinstance(value, str)}

    def tags(self) -> dict[str, str]:
        """Return the words by their names in an MLflow run."""
        return {f"forgeline.cost.{name}": value for name, value in self if isinstance(value, str)}


class Meter(BaseOutput):
    """One start of a run, counted on top of what the run's folder says of earlier ones.

    Attributes:
        spent: the account as it was last added up.
        tokens: trained by all starts together; set by who knows it.
    """

    def __init__(self, folder: Path, cost: Cost, train: Train) -> None:
        self.tokens = 0
        self._path, self._machines, self._on_gpu = folder / FILE, train.distributed.nodes, _on_gpu(train)
        self._hourly = cost.prices[cost.machine] * self._machines
        words = {"machine": cost.machine, "currency": cost.currency, "energy_source": _energy_source()}
        earlier = Spent.model_validate_json(self._path.read_text()) if self._path.exists() else Spent(**words)
        self.spent = self._earlier = earlier.model_copy(update=words)
        self._started, self._busy = time.perf_counter(), _used()[1]
        self._kwh = self._co2 = self._peak = 0.0

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Note this start's energy so far: codecarbon calls it."""
        self._kwh, self._co2 = total.energy_consumed, total.emissions

    def see(self, metrics: Mapping[str, float]) -> None:
        """Note the memory that the training loop logs: its tensors may lie on another process's GPU."""
        self._peak = max(self._peak, metrics.get("memory_gb", 0.0))

    def look(self) -> None:
        """Add up the account, and keep it in the run's folder. The nodes of one run are taken to be alike."""
        memory, busy = _used()
        seconds, before = time.perf_counter() - self._started, self._earlier
        self._peak = max(self._peak, _tensors() if self._on_gpu else memory)
        self.spent = before.model_copy(
            update={
                "seconds": before.seconds + seconds,
                "processor_seconds": before.processor_seconds + busy - self._busy,
                "tokens": max(before.tokens, self.tokens),
                "kwh": before.kwh + self._kwh * self._machines,
                "co2_kg": before.co2_kg + self._co2 * self._machines,
                "peak_memory_gb": max(before.peak_memory_gb, self._peak),
                "money": before.money + seconds / 3600 * self._hourly,
            }
        )
        write_json(self._path, self.spent.model_dump())


@contextmanager
def charged(folder: Path, cost: Cost, train: Train) -> Iterator[Meter]:
    """Charge what the block does to the run in a folder, whose `spent.json` outlives a kill.

    Raises:
        TuningError: if the carbon of the country's power is unknown.
    """
    if cost.country not in DataSource().get_global_energy_mix_data():
        raise TuningError(
            f"configs/cost.yaml: the carbon of power from {cost.country} is unknown; set country to another "
            "three-letter code of ISO 3166, such as GBR."
        )
    folder.mkdir(parents=True, exist_ok=True)
    meter = Meter(folder, cost, train)
    tracker = _tracker(folder, cost, meter)
    stopped = threading.Event()

    def watch() -> None:
        tracker.start()  # here, for it asks for a second or two which processor this is
        while not stopped.wait(SECONDS):
            tracker.flush()
            meter.look()

    watcher = threading.Thread(target=watch, name="cost", daemon=True)
    watcher.start()
    try:
        yield meter
    finally:
        stopped.set()
        watcher.join()
        tracker.stop()
        meter.look()


def _tracker(folder: Path, cost: Cost, meter: Meter) -> OfflineEmissionsTracker:
    """Return a tracker that writes nothing and asks nobody, whatever a `.codecarbon.config` on this machine says."""
    logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it speaks before it reads log_level
    return OfflineEmissionsTracker(
        country_iso_code=cost.country,
        output_dir=str(folder),
        output_methods=[],
        output_handlers=[meter],
        emissions_endpoint=False,
        electricitymaps_api_token=False,
        allow_multiple_runs=True,  # else a lock file for the whole machine
        measure_power_secs=86400,  # never by itself: it would race with the meter's flushes
        log_level="error",
    )


def _energy_source() -> str:
    processor = "measured" if cpu.is_rapl_available() else "estimated"
    has_gpu = gpu.is_nvidia_system() or gpu.is_rocm_system()
    return f"processor {processor}, memory estimated" + (", GPU measured" if has_gpu else "")


def _on_gpu(train: Train) -> bool:
    """Return whether a run's tensors lie on a GPU, whose peak of memory then starts anew."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    return train.device != "cpu" and torch.cuda.is_available()


def _tensors() -> float:
    """Return the most memory that this process's tensors took on its GPUs together, in GB."""
    import torch

    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())) / GB


def _used() -> tuple[float, float]:
    """Return the memory in GB that this process and its children hold, and the processor seconds they took."""
    own = psutil.Process()
    memory = seconds = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has just ended; its seconds are now its parent's
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            memory += process.memory_info().rss / GB
    return memory, seconds
