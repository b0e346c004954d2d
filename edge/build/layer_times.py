"""How long each product of a graph takes on this processor, in fp32 and in int8: what ONNX Runtime measures.

The runtime fuses and renames nodes; what it says of a node is counted for the product whose group the node
belongs to, by its name or the name of what it writes. Q/DQ pairs count for the product that wrote the tensor.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edge.graph import Graph
from edge.precision.cost import Costs
from edge.precision.groups import Group
from edge.precision.policy import WEIGHT_ONLY
from edge.types import Array

RUNS = 8
_ADDED = re.compile(r"(_kernel_time|_token_\d+|_nchwc|_quant)+$")
"""What ONNX Runtime appends to names."""


def measured(
    graph: Graph,
    groups: tuple[Group, ...],
    carrier: onnx.ModelProto,
    quantized: onnx.ModelProto,
    feeds: Mapping[str, Array],
) -> Costs:
    """Seconds of every product in fp32 and in int8, from runs of one graph with all of either.

    Args:
        carrier, quantized: the graph with everything in fp32, and with all it can have in int8.
    """
    owners = _owners(graph, groups)
    plain, others = _by_owner(owners, _profile(carrier, feeds))
    integer, _ = _by_owner(owners, _profile(quantized, feeds))
    products = {  # weights in int8 alone are widened before they are multiplied
        (name, precision): plain.get(name, 0.0)
        for group in groups
        for name in group.products
        for precision in ("fp32", *WEIGHT_ONLY)
    }
    products |= {(name, "int8"): integer.get(name, 0.0) for group in groups for name in group.products}
    return Costs(products, others, "measured on this processor")


def _owners(graph: Graph, groups: tuple[Group, ...]) -> dict[str, str]:
    """Node or tensor → the product it counts for."""
    found: dict[str, str] = {}
    for group in groups:
        for node in graph.nodes:
            if node.name in group.nodes:
                product = node.name if node.name in group.products else group.products[-1]
                found[node.name] = product
                found |= dict.fromkeys((name for name in node.output if name), product)
    return found


def _by_owner(owners: Mapping[str, str], seconds: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Seconds by product, and of all the rest."""
    found: dict[str, float] = defaultdict(float)
    rest = 0.0
    for name, spent in seconds.items():
        plain = _ADDED.sub("", name)
        parts = [plain, *(plain[:index] for index in range(len(plain) - 1, 0, -1) if plain[index] == "/")]
        owner = next((owners[part] for part in parts if part in owners), None)
        if owner is None:
            rest += spent
        else:
            found[owner] += spent
    return found, rest


def _profile(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, float]:
    """Seconds of one inference by what the runtime calls its nodes."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="edge-profile-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _kernel_seconds(events)


def _kernel_seconds(events: list[dict[str, Any]]) -> dict[str, float]:
    """Fastest of each node's runs: what disturbed it is not the node's."""
    spent: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["name"]].append(event["dur"])
    return {name: min(times) * 1e-6 for name, times in spent.items()}
