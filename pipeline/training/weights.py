"""The weights of a run by name, as weights.json describes them once: role, place, group and layer of theory.

Names are those of records: of every parameter, of the parts of a fused one, and of the modules whose outputs are
measured.
"""

from dataclasses import asdict
from typing import Any

import litgpt.model
from torch import nn

from pipeline.config import RunConfig
from pipeline.diagnostics.layers import layers, walk
from pipeline.entries.kinds import place_of
from pipeline.models.roles import TensorSpec


def describe_weights(model: nn.Module, specs: dict[str, TensorSpec], config: RunConfig) -> dict[str, dict[str, Any]]:
    """Name -> ``role`` and ``place`` of its `TensorSpec` (None for modules), and the fields of
    `entries.kinds.Place`."""
    of: dict[str, TensorSpec | None] = {}
    for layer in layers(model)[0]:
        for attribute, parameter in layer.tensors.items():
            of[parameter] = specs[parameter]
            of |= {f"{part}.{attribute}": specs[parameter] for part, *_ in layer.parts}
        of[layer.name] = None
    of |= {name: None for name, module in walk(model) if isinstance(module, litgpt.model.CausalSelfAttention)}
    of |= {name: spec for name, spec in specs.items() if name not in of}
    return {
        name: {
            "role": spec.role if spec else None,
            "place": spec.place if spec else None,
            **asdict(place_of(name, config)),
        }
        for name, spec in of.items()
    }
