import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from forgeline.config import load
from forgeline.config.schema import Sweep
from forgeline.errors import TuningError
from forgeline.records import write_jsonl
from forgeline.tuning.sweep import best_first, search

PROJECT = Path(__file__).parents[2]
SPACE = {
    "train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
    "train.epochs": {"low": 1, "high": 3},
    "train.lora.targets": ["all-linear", ["q_proj", "v_proj"]],
}
TRIALS = 7  # five at random, two that the estimator proposes


@pytest.fixture(scope="module")
def scene(tiny_model, tmp_path_factory):
    """A folder with a tiny model and rows to train it on."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "model").symlink_to(tiny_model)
    for split, numbers in {"train": range(24), "validation": range(24, 30)}.items():
        rows = (
            {
                "id": f"row-{number}",
                "key": f"row-{number}",
                "messages": [
                    {"role": "user", "content": f"number {number}"},
                    {"role": "assistant", "content": f"It is number {number}."},
                ],
            }
            for number in numbers
        )
        write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def sweep(scene, folder, space=SPACE, trials=TRIALS):
    """Search to the end; return the trials, and the steps that were logged of each that trained."""
    overrides = [f"train.model.source={scene / 'model'}", "train.dtype=float32", "train.batch_size=8"]
    config = load(PROJECT, overrides=[*overrides, "train.checkpoint_steps=1"])
    steps = {}

    @contextmanager
    def watch(trial):
        steps[trial.number] = []
        yield lambda metrics, step: steps[trial.number].append(step)

    data = scene / "train.jsonl", scene / "validation.jsonl"
    settings = Sweep.model_validate({"trials": trials, "space": space})
    return list(search(config.train, settings, *data, folder, seed=7, root=PROJECT, watch=watch)), steps


@pytest.fixture(scope="module")
def uninterrupted(scene, tmp_path_factory):
    return sweep(scene, tmp_path_factory.mktemp("sweep"))


def assert_same(trials, others):
    assert [trial.values for trial in trials] == [trial.values for trial in others]
    assert [trial.loss for trial in trials] == pytest.approx([trial.loss for trial in others], rel=1e-6)
    assert best_first(trials)[0].number == best_first(others)[0].number


def test_values_lie_in_their_space_and_the_best_comes_first(uninterrupted):
    trials, steps = uninterrupted
    assert [trial.number for trial in trials] == list(steps) == list(range(1, TRIALS + 1))
    for values in (trial.values for trial in trials):
        assert 1e-3 <= values["train.learning_rate"] == float(f"{values['train.learning_rate']:.3g}") <= 1e-1
        assert values["train.epochs"] in (1, 2, 3) and isinstance(values["train.epochs"], int)
        assert values["train.lora.targets"] in SPACE["train.lora.targets"]
    assert steps[1][-1] == 3 * trials[0].values["train.epochs"]  # 24 rows in batches of 8
    losses = [trial.loss for trial in best_first(trials)]
    assert losses == sorted(losses) and all(map(math.isfinite, losses))


def test_more_trials_continue_the_same_search(scene, uninterrupted, tmp_path):
    assert sweep(scene, tmp_path, trials=3)[1].keys() == {1, 2, 3}
    trials, steps = sweep(scene, tmp_path)
    assert steps.keys() == {4, 5, 6, 7}
    assert_same(trials, uninterrupted[0])


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_sweep import sweep
sweep(Path({scene!r}), Path({folder!r}))
"""


def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been_killed(scene, uninterrupted, tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), scene=str(scene), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("trial-006/step-*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "trial-006/result.json").exists()
    trials, steps = sweep(scene, tmp_path)
    assert steps.keys() == {6, 7}  # the finished ones were not done again
    assert steps[6][0] > 1  # nor what the interrupted one had done
    assert_same(trials, uninterrupted[0])


def test_a_trial_that_fails_keeps_its_reason_and_the_search_goes_on(scene, tmp_path):
    trials, _ = sweep(scene, tmp_path, space={"train.learning_rate": [1e30, 1e-2]})
    assert len(trials) == 2  # the space holds no more
    best, failed = best_first(trials)
    assert (best.values["train.learning_rate"], best.state) == (1e-2, "finished")
    assert failed.state == "failed" and "lower train.learning_rate (now 1e+30)" in failed.reason
    again, steps = sweep(scene, tmp_path, space={"train.learning_rate": [1e30, 1e-2]})
    assert again == trials and not steps
    with pytest.raises(TuningError, match=r"All 1 trials of the sweep failed, the first because: The loss is no"):
        best_first([failed])
