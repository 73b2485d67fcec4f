"""A tiny model in OpenVINO's format, with the inputs and the state that an exporter gives, and its twin in torch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

HEADS, SIZE = 2, 16
WIDTH = HEADS * SIZE
POSITIONS = 4096


class Tiny(nn.Module):
    """One layer of attention over words and learned places, with the keys and values before as arguments."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Embedding(POSITIONS, WIDTH)
        self.projections = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)

    def forward(self, input_ids, attention_mask, position_ids, beam_idx, past_key, past_value):
        hidden = self.words(input_ids) + self.places(position_ids)
        batch, new, _ = hidden.shape
        parts = [part(hidden).view(batch, new, HEADS, SIZE).transpose(1, 2) for part in self.projections]
        keys = torch.cat([past_key.index_select(0, beam_idx), parts[1]], 2)
        values = torch.cat([past_value.index_select(0, beam_idx), parts[2]], 2)
        known = keys.shape[2]
        mask = torch.ones(known, known, dtype=torch.bool).tril()[known - new :] & (attention_mask[:, None, None, :] > 0)
        seen = nn.functional.scaled_dot_product_attention(parts[0], keys, values, attn_mask=mask)
        return self.head(hidden + seen.transpose(1, 2).reshape(batch, new, WIDTH)), keys, values

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The tokens that it says, computed without OpenVINO."""
        ids, nothing = list(prompt), torch.zeros(1, HEADS, 0, SIZE)
        with torch.inference_mode():
            for _ in range(count):
                whole = torch.tensor([ids])
                places = torch.arange(len(ids))[None]
                scores = self(
                    whole, torch.ones_like(whole), places, torch.zeros(1, dtype=torch.int32), nothing, nothing
                )
                ids.append(int(scores[0][0, -1].argmax()))
        return ids[len(prompt) :]


def write(model: Tiny, folder: Path) -> None:
    """Write it as an exporter does: what came before is the model's own state, empty at the start."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    past = torch.zeros(2, HEADS, 2, SIZE)
    example = {
        "input_ids": torch.ones(2, 3, dtype=torch.long),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
        "position_ids": torch.arange(2, 5)[None].repeat(2, 1),
        "beam_idx": torch.arange(2, dtype=torch.int32),
        "past_key": past,
        "past_value": past,
    }
    converted = ov.convert_model(model.eval(), example_input=example)
    for place, name in zip(converted.inputs, example, strict=True):
        place.get_tensor().set_names({name})
    for place, name in zip(converted.outputs, ("logits", "present_key", "present_value"), strict=True):
        place.get_tensor().set_names({name})
    state = [-1, HEADS, -1, SIZE]
    table = [-1, -1]
    shapes = {"input_ids": table, "attention_mask": table, "position_ids": table, "beam_idx": [-1]}
    converted.reshape(shapes | {"past_key": state, "past_value": state})
    apply_make_stateful_transformation(converted, {"past_key": "present_key", "past_value": "present_value"})
    batch = ops.gather(
        ops.shape_of(converted.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0)
    )
    empty = ops.concat([batch, ops.constant([HEADS, 0, SIZE])], 0)
    for node in converted.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([ops.broadcast(ops.constant(0.0, dtype=np.float32), empty).output(0)])
    converted.validate_nodes_and_infer_types()
    folder.mkdir()
    ov.save_model(converted, folder / "openvino_model.xml", compress_to_fp16=False)
