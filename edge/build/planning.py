"""Plans without engines: what a build would give every part of a model, before anything is compiled."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.build.build import new_job, open_workshop
from edge.build.choose import Chosen
from edge.build.gpu import emulation
from edge.build.inputs import gather
from edge.build.processor import measured_costs, running
from edge.build.rows import Reporter
from edge.build.suitable import refuse_for_volumes, refuse_unsuitable
from edge.build.workshop import Workshop
from edge.config import ModelConfig
from edge.machine import Machine
from edge.precision.plan import Variant
from edge.precision.sensitivity import GroupNoise
from edge.store import Store
from edge.targets import Target


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan of an engine that was not made.

    Attributes:
        noises: what was measured of each group, by type.
        equalized: tensors whose channels were brought to a like range, and how far: the weights that scales
            are for are not the file's then.
    """

    model: str
    target: Target
    variant: Variant
    chosen: Chosen
    noises: dict[str, dict[str, GroupNoise]]
    equalized: dict[str, float]


def plans(
    config: ModelConfig,
    targets: Sequence[Target],
    variants: Sequence[Variant],
    store: Store,
    machine: Machine,
    reporter: Reporter,
    search_seconds: float | None = None,
) -> list[Planned]:
    """The plan of every variant for every target, in that order. What is measured stays in the store's
    cache, so that a build that follows finds it there.

    Raises:
        EdgeError: the graph, the samples or the policy are no good.
    """
    for target in targets:
        for variant in variants:
            refuse_for_volumes(config, target, variant)
    reporter.step("read the model and its samples", 0, 0)
    inputs = gather(config)
    jobs = [new_job(inputs, target, variant, machine) for target in targets for variant in variants]
    with tempfile.TemporaryDirectory(prefix="edge-plan-") as folder:
        shop = open_workshop(inputs, jobs, store, machine, reporter, Path(folder), search_seconds)
        return [_planned(shop, job.target, job.variant, job.label) for job in jobs]


def _planned(shop: Workshop, target: Target, variant: Variant, label: str) -> Planned:
    if target.is_gpu:
        refuse_unsuitable(shop.graph, target)
    chosen = _chosen(shop, target, variant, label)
    chooser = shop.chooser
    noises: dict[str, dict[str, GroupNoise]] = {}
    for kind in chooser.known if chooser else ():
        assert chooser is not None
        for name, noise in chooser.sensitivity(kind).groups.items():
            noises.setdefault(name, {})[kind] = noise
    equalized = dict(chooser.equalized) if chooser and variant != "exact" else {}
    return Planned(shop.config.name, target, variant, chosen, noises, equalized)


def _chosen(shop: Workshop, target: Target, variant: Variant, label: str) -> Chosen:
    if target.is_gpu:
        return shop.chosen(target, variant, emulation(shop, target, label), label)
    opener = running(shop, target)
    if variant != "fast" or shop.chooser is None:
        return shop.chosen(target, variant, opener, label)
    scheme = target.int8_activations[0]
    costs = measured_costs(shop, shop.chooser, target, scheme)
    return shop.chooser.choose(target, variant, opener, label, scheme, costs)
