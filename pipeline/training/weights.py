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
    """Name -> ``role`` and ``place`` of its `TensorSpec` and whether it is ``trained`` (None for modules), and the
    fields of `entries.kinds.Place`."""
    of: dict[str, str | None] = {}  # the parameter that a name stands for
    for layer in layers(model)[0]:
        for attribute, parameter in layer.tensors.items():
            of[parameter] = of[f"{layer.name}.{attribute}"] = parameter  # two names of a tied one
            of |= {f"{part}.{attribute}": parameter for part, *_ in layer.parts}
        of[layer.name] = None
    of |= {name: None for name, module in walk(model) if isinstance(module, litgpt.model.CausalSelfAttention)}
    of |= {name: name for name in specs if name not in of}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return {
        name: {
            "role": specs[parameter].role if parameter else None,
            "place": specs[parameter].place if parameter else None,
            "trained": trained[parameter] if parameter else None,
            **asdict(place_of(name, config)),
        }
        for name, parameter in of.items()
    }
