"""Export a model for OpenVINO: `ENVIRONMENT/bin/python openvino_export.py MODEL OUT WEIGHTS`, in its environment.

MODEL is a folder in the transformers layout, OUT gets the same model. WEIGHTS are `fp32`, `int8_asym` (8 bits, a scale
for each channel) or `int4_asym` (4 bits, a scale for each group of 64; the first and last layer stay at 8 bits).
Nothing of Forgeline is imported: it is not there.
"""

import sys
from typing import Any

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

CUT: dict[str, dict[str, Any]] = {
    "int8_asym": {"bits": 8, "sym": False},
    "int4_asym": {"bits": 4, "sym": False, "group_size": 64, "ratio": 1.0},
}


def main(model: str, out: str, weights: str) -> None:
    """Export the model in one folder to another."""
    how: dict[str, Any] = {"load_in_8bit": False}  # what a large model would otherwise be cut to unasked
    if weights in CUT:
        how = {"quantization_config": OVWeightQuantizationConfig(**CUT[weights])}
    exported = OVModelForCausalLM.from_pretrained(model, export=True, compile=False, local_files_only=True, **how)
    exported.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
