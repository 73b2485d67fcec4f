"""Write what was tuned, whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from forgeline.errors import ModelError


def save_tuned(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write an adapter, or a whole model in its own precision, as safetensors, with tokenizer and chat template.

    What was in the folder is replaced once all is written. `weights` are the model's by name, where it
    holds only a share of them itself.

    Raises:
        ModelError: if it cannot be written; the folder stays as it was.
    """
    from peft import PeftModel

    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    # The base's embeddings are no part of an adapter; peft would ask a hub whether they were changed.
    options: dict[str, Any] = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
    if weights is not None:
        options["state_dict"] = weights
    try:
        model.save_pretrained(partial, **options)
        tokenizer.save_pretrained(partial)
    except Exception as error:  # tokenizers and safetensors have no narrower kind for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(
            f"What was tuned cannot be written to {folder} ({error}): free some space and run the command again; "
            "it goes on from the last checkpoint."
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
