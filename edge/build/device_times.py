"""How long each product takes on the GPU that is here, in each type: engines of one type, timed by layer.

TensorRT fuses: a layer is several nodes, and what it takes is shared among its products as the roofline
estimate would have it. Layers without a product count as the rest of the network; what a quantized engine has
more of them (conversions, Q/DQ that fused with nothing) is the price of its quantized products.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.build.choose import Chooser
from edge.build.finish import Draft, layer_seconds
from edge.build.layers import layer_nodes
from edge.build.site import Site
from edge.build.workshop import Workshop
from edge.errors import EdgeError
from edge.graph import serialize, sha256
from edge.manifest import Accuracy
from edge.precision import kept
from edge.precision.cost import Costs, roofline
from edge.precision.groups import groups
from edge.precision.plan import Plan, Planner, Variant
from edge.precision.rewrite import rewrite
from edge.targets import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timed:
    """An engine of one type, timed.

    Attributes:
        layers: the engine inspector's JSON.
        seconds: by layer.
    """

    plan: Plan
    layers: str
    seconds: Mapping[str, float]


def measured(shop: Workshop, target: Target, site: Site, label: str) -> Costs | None:
    """How long each product takes on the GPU that is here, in the carrier and in each type; measured once.

    None where that cannot be had: then the roofline's estimate has to do.
    """
    if shop.chooser is None:
        return None
    path = shop.chooser.folder / f"times-{target.name}-{_key(shop, target, site)}.npz"
    found = load(path)
    if found is None:
        try:
            found = _measure(shop, shop.chooser, target, site, label)
        except EdgeError as e:
            log.warning("the layers of %s are not timed, their time is estimated: %s", label, e)
            return None
        save(found, path)
    return found


def _key(shop: Workshop, target: Target, site: Site) -> str:
    """Hash of what times depend on beside the graph and its ranges."""
    profile = shop.profile and shop.profile.model_dump(mode="json")
    facts = [dataclasses.asdict(target), dataclasses.asdict(site), profile]
    return sha256(json.dumps(facts, sort_keys=True).encode())[:16]


def _measure(shop: Workshop, chooser: Chooser, target: Target, site: Site, label: str) -> Costs:
    graph, ranges = chooser.graph, chooser.calibration.ranges
    feeds = next(iter(shop.reference)).feeds

    def timed(row: Target, variant: Variant, kind: str) -> Timed:
        made = Planner(graph, row, variant, ranges).plan()
        content = serialize(shop.opened(rewrite(graph, made, ranges, row)))
        draft = Draft(f"{label}, all {kind}", content, (), shop.config, Accuracy(), feeds)
        folder = shop.folder / "times" / f"{target.name}-{kind}"
        return Timed(made, *layer_seconds(draft, site, folder, shop.progress))

    quantized: dict[str, Timed] = {
        kind: timed(dataclasses.replace(target, quantized=(kind,)), "fast", kind) for kind in target.quantized
    }
    estimate = roofline(graph, groups(graph), target)
    carrier = timed(target, "exact", target.carrier)
    return costs(estimate, carrier, quantized, f"measured on {site.gpu.name}")


def costs(estimate: Costs, carrier: Timed, quantized: Mapping[str, Timed], how: str) -> Costs:
    """What was measured, and the estimate in proportion where nothing was.

    Args:
        estimate: the roofline's, for every product and precision.
        carrier: everything in the carrier.
        quantized: by type, everything in that type that can be.
        how: where the times come from, in words.
    """
    plain, rest = _by_product(carrier, estimate, carrier.plan.carrier)
    found = {(name, carrier.plan.carrier): seconds for name, seconds in plain.items()}
    for kind, timed in quantized.items():
        in_kind, more = _by_product(timed, estimate, kind)
        in_kind = {name: t for name, t in in_kind.items() if timed.plan.precisions.get(name) == kind}
        total = sum(in_kind.values())
        price = 1 + max(more - rest, 0.0) / total if total else 1.0
        found |= {(name, kind): price * seconds for name, seconds in in_kind.items()}
    ratio = sum(found.values()) / max(sum(estimate.products[key] for key in found), 1e-30) if found else 1.0
    scaled = {key: ratio * seconds for key, seconds in estimate.products.items()}
    return Costs(scaled | found, rest, how)


def _by_product(timed: Timed, estimate: Costs, kind: str) -> tuple[dict[str, float], float]:
    """Seconds of each product, and of all layers that hold none."""
    found: dict[str, float] = defaultdict(float)
    rest = 0.0
    nodes = layer_nodes(timed.layers)
    for layer, seconds in timed.seconds.items():
        inside = [name for name in nodes.get(layer, [layer]) if (name, kind) in estimate.products]
        weights = [estimate.products[name, kind] for name in inside]
        total = sum(weights)
        if not total:
            rest += seconds
            continue
        for name, weight in zip(inside, weights, strict=True):
            found[name] += seconds * weight / total
    return dict(found), rest


def save(found: Costs, path: Path) -> None:
    """Keep what was measured beside the calibration."""
    names, precisions = zip(*found.products, strict=True) if found.products else ((), ())
    seconds = np.array(list(found.products.values()), np.float64)
    arrays = {"names": np.array(names, str), "precisions": np.array(precisions, str), "seconds": seconds}
    kept.save(path, {**arrays, "others": np.float64(found.others), "how": np.array(found.how)})


def load(path: Path) -> Costs | None:
    """What was kept; None where there is nothing, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            keys = zip(stored["names"].tolist(), stored["precisions"].tolist(), strict=True)
            products = dict(zip(keys, stored["seconds"].tolist(), strict=True))
            return Costs(products, float(stored["others"]), str(stored["how"]))
    except kept.DAMAGED:
        return None
