"""Does a node run in the precision that was planned? The plan against what the compiler made of the graph.

The parsed network tells it without a GPU: a strongly typed network computes in the types of its tensors. The
inspector tells what really runs, where the engine can be loaded.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Precisions = tuple[tuple[str, str], ...]
"""Node and its precision."""

QUANTIZED = ("int8", "fp8")
_WIDTH = {"fp8": 1, "int8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
_DTYPE = {"FP8": "fp8", "INT8": "int8", "BF16": "bf16", "HALF": "fp16", "FLOAT": "fp32"}
"""TensorRT's DataType → our word; integers and booleans of shape arithmetic are not in it."""
_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_PASSED = ("SHUFFLE", "CAST", "IDENTITY")
"""Layers between a DEQUANTIZE and the product that reads it."""
_SEPARATOR = "\x1e"
_ORIGIN = re.compile(r"\[ONNX Layer: (.*)\]", re.DOTALL)


def finding(node: str, planned: str, runs: str) -> str:
    return f"planned {planned}, runs {runs}: node '{node}'"


def missing(node: str, planned: str) -> str:
    return f"planned {planned}, not in the compiled network: node '{node}'"


def origins(metadata: str, name: str) -> list[str]:
    """ONNX nodes that a layer comes from: its metadata, written by the ONNX parser; else its own name."""
    parts = [_ORIGIN.fullmatch(part.strip()) for part in metadata.split(_SEPARATOR)]
    return [match[1] for match in parts if match] or [name]


# ---------------------------------------------------------------------- the parsed network


def compare_network(network: Any, plan: Precisions) -> list[str]:
    """Nodes of `plan` that the parsed network does not compute in their precision.

    Args:
        network: an INetworkDefinition.
    """
    parsed = _Network(network)
    found = []
    for node, planned in plan:
        runs = parsed.runs(node, planned)
        if runs is None and planned in QUANTIZED:
            found.append(missing(node, planned))
        elif runs not in (None, planned):
            found.append(finding(node, planned, str(runs)))
    return found


class _Network:
    """An index over a parsed network."""

    def __init__(self, network: Any) -> None:
        self.of_node: dict[str, list[Any]] = defaultdict(list)
        self.producer: dict[str, Any] = {}
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            for node in origins(layer.metadata, layer.name):
                self.of_node[node].append(layer)
            for output in _outputs(layer):
                self.producer[output.name] = layer

    def runs(self, node: str, planned: str) -> str | None:
        """The widest type that the node computes in; None if it is not there (folded away)."""
        layers = self.of_node.get(node, [])
        product = next((layer for layer in layers if layer.type.name in _PRODUCTS), None)
        if planned in QUANTIZED and product is not None:
            return widest([self._stored(product, 0), self._stored(product, 1)])
        types = [_DTYPE.get(tensor.dtype.name) for layer in layers for tensor in _outputs(layer)]
        return widest(t for t in types if t is not None)

    def _stored(self, layer: Any, index: int) -> str | None:
        """Type of an operand as it is stored: in front of its DEQUANTIZE, if there is one."""
        tensor = layer.get_input(index) if index < layer.num_inputs else None
        if tensor is None:  # weights inside the layer have its own type
            tensor = layer.get_output(0)
        kind = tensor.dtype.name
        producer = self.producer.get(tensor.name)
        while producer is not None and producer.type.name in _PASSED:
            producer = self.producer.get(producer.get_input(0).name)
        if producer is not None and producer.type.name == "DEQUANTIZE":
            kind = producer.get_input(0).dtype.name
        return _DTYPE.get(kind)


def _outputs(layer: Any) -> Iterator[Any]:
    tensors = (layer.get_output(index) for index in range(layer.num_outputs))
    return (tensor for tensor in tensors if tensor is not None)


def widest(types: Iterable[str | None]) -> str | None:
    """The type with most bytes; None if there is none."""
    return max((t for t in types if t is not None), key=lambda t: (_WIDTH[t], t), default=None)


# ---------------------------------------------------------------------- the engine's inspector


def compare_engine(information: str, plan: Precisions) -> list[str]:
    """Quantized nodes of `plan` that the engine runs higher, as far as the inspector tells.

    Args:
        information: EngineInspector's JSON of an engine built with detailed verbosity; "" tells nothing.
    """
    layers = _layers_by_node(information)
    found = []
    for node, planned in plan:
        told = [types for layer in layers.get(node, []) if (types := _types(layer))]
        if planned in QUANTIZED and told and not any(planned in types for types in told):
            found.append(finding(node, planned, str(widest(t for types in told for t in types))))
    return found


def layer_nodes(information: str) -> dict[str, list[str]]:
    """Layer → the ONNX nodes that became it, as far as the inspector's JSON tells."""
    return {
        str(layer.get("Name", "")): origins(layer.get("Metadata", ""), layer.get("Name", ""))
        for layer in _told(information)
    }


def _layers_by_node(information: str) -> Mapping[str, list[dict[str, Any]]]:
    by_node: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for layer in _told(information):
        for node in origins(layer.get("Metadata", ""), layer.get("Name", "")):
            by_node[node].append(layer)
    return by_node


def _told(information: str) -> list[dict[str, Any]]:
    """The layers that the inspector describes; a plain name if the engine was built without detail."""
    try:
        layers = json.loads(information)["Layers"] if information else []
    except (ValueError, KeyError, TypeError):
        return []  # a version that writes something else
    return [layer for layer in layers if isinstance(layer, dict)]


_SPELLINGS = (
    ("fp8", ("fp8", "e4m3")),
    ("int8", ("int8",)),
    ("bf16", ("bf16", "bfloat16")),
    ("fp16", ("fp16", "half", "float16")),
    ("fp32", ("fp32", "float", "float32")),
)
"""How the inspector of TensorRT 10 and 11 writes types, some within a sentence on the memory format."""


def _types(layer: Mapping[str, Any]) -> set[str]:
    """Types that a layer reads; empty where several layers hide behind one name (ForeignNode)."""
    if "ForeignNode" in f"{layer.get('Name')} {layer.get('LayerType')}":
        return set()
    weights = layer.get("Weights")
    texts = [weights.get("Type", "") if isinstance(weights, dict) else ""]
    for tensor in layer.get("Inputs", []):
        texts += [str(tensor.get(key, "")) for key in ("Format/Datatype", "DataType", "Format")]
    words = {word for text in texts for word in re.findall(r"[a-z]+\d*[a-z]*\d*", text.lower())}
    return {kind for kind, spellings in _SPELLINGS if words & set(spellings)}
