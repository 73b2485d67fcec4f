"""Export a model for OpenVINO: `ENVIRONMENT/bin/python openvino_export.py MODEL OUT`, in the exporter's environment.

MODEL is a folder in the transformers layout, OUT gets the same model with weights of 8 bits (asymmetric, a scale for
each channel). Nothing of Forgeline is imported: it is not there.
"""

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig


def main(model: str, out: str) -> None:
    """Export the model in one folder to another."""
    eight_bits = OVWeightQuantizationConfig(bits=8, sym=False)
    exported = OVModelForCausalLM.from_pretrained(
        model, export=True, compile=False, local_files_only=True, quantization_config=eight_bits
    )
    exported.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
