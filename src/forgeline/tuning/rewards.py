"""What TRL computes for preference tuning: the loss of a batch, and the rewards that the model implies.

An implied reward is beta times how much likelier a completion became than it was for the reference.
Importing this module takes seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from forgeline.config.schema import Train
from forgeline.models import LanguageModel, precision
from forgeline.tuning.judged import Judged

# TRL's names of what it reports for a batch, and ours.
REPORTED = {
    "rewards/chosen": "reward_liked",
    "rewards/rejected": "reward_disliked",
    "rewards/accuracies": "reward_accuracy",
}

Rewards = list[tuple[str, float, int]]


class _Tokenised:
    """Keeps TRL from tokenising in its own way what is tokenised already, and from reporting over the network."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        pass


class _DPO(_Tokenised, DPOTrainer):
    pass


class _KTO(_Tokenised, KTOTrainer):
    pass


class Loss:
    """The loss that `config.method` descends, of an adapted model against what it is now.

    The reference is a frozen copy of the adapter: with a new one, the base model itself. Dropout is off.
    """

    def __init__(
        self, config: Train, base: LanguageModel, model: Any, examples: Sequence[Judged], folder: Path
    ) -> None:
        """Build TRL's trainer around the model; `examples` decide how much likes and dislikes count under KTO."""
        self.model = model
        self._device = base.device
        self._half = precision(config) == "bfloat16"
        options = {
            "output_dir": str(folder),
            "beta": config.preference.beta,
            "max_length": config.max_tokens,  # of KTO's mismatched pairs; no example is longer
            "activation_checkpointing": config.activation_checkpointing is True,
            "use_cpu": base.device.type == "cpu",
            "bf16": False,  # precision is decided at each call
            "report_to": "none",
            "disable_tqdm": True,
        }
        if config.method == "dpo":
            kind, arguments = _DPO, DPOConfig(**options)
        else:
            # Equal totals: the lower end of what the paper recommends (Ethayarajh et al., 2024, eq. 8).
            counts = Counter(example.label for example in examples)
            most = max(counts.values())
            shares = {"desirable_weight": most / counts[True], "undesirable_weight": most / counts[False]}
            kind, arguments = _KTO, KTOConfig(**options, per_device_train_batch_size=2, **shares)
        arguments._n_gpu = min(1, arguments.n_gpu)  # TRL will not start where one process sees several
        self._trainer = kind(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(self._rows(examples[:2])),  # it wants one; batches come one by one
            processing_class=base.tokenizer,
        )
        self._trainer.remove_callback(PrinterCallback)
        if config.activation_checkpointing is True:
            model.get_base_model().activation_checkpointing_enable()

    def __call__(self, batch: Sequence[Judged]) -> tuple[torch.Tensor, Rewards]:
        """Return the mean loss of a batch, and the rewards: name, mean, and of how many completions."""
        inputs = self._trainer.data_collator(self._rows(batch))
        inputs = {name: value.to(self._device) for name, value in inputs.items()}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            loss: torch.Tensor = self._trainer.compute_loss(self.model, inputs)
        self._trainer.log({})  # it puts the batch's means there
        means = {name.removeprefix("eval_"): mean for name, mean in self._trainer.state.log_history.pop().items()}
        liked = sum(example.label for example in batch)
        disliked = len(batch) if batch[0].rejected else len(batch) - liked
        counts = {"rewards/chosen": liked, "rewards/rejected": disliked, "rewards/accuracies": len(batch)}
        return loss, [(ours, means[name], counts[name]) for name, ours in REPORTED.items() if name in means]

    @staticmethod
    def averaged(rewards: Rewards) -> dict[str, float]:
        """Return the mean of each reward over several batches, and the margin between liked and disliked."""
        result = {}
        for name in REPORTED.values():
            found = [(mean, count) for key, mean, count in rewards if key == name]
            if found:
                result[name] = sum(mean * count for mean, count in found) / sum(count for _, count in found)
        if {"reward_liked", "reward_disliked"} <= result.keys():
            result["reward_margin"] = result["reward_liked"] - result["reward_disliked"]
        return result

    @staticmethod
    def _rows(batch: Sequence[Judged]) -> list[dict[str, Any]]:
        if batch[0].rejected:
            return [
                {"prompt_ids": each.prompt, "chosen_ids": each.completion, "rejected_ids": list(each.rejected)}
                for each in batch
            ]
        # KTO measures how far the model moved on prompts with another prompt's completion.
        others = [batch[-1], *batch[:-1]]
        return [
            {
                "prompt_ids": each.prompt,
                "completion_ids": each.completion,
                "KL_completion_ids": other.completion,
                "label": each.label,
            }
            for each, other in zip(batch, others, strict=True)
        ]
