"""How far a report can be trusted: which data was used for what, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge.signoff.data import COSINE, Dossier, Engine
from edge.signoff.html import tag
from edge.signoff.words import counted, listed, metric_of, number

REUSED = "some pictures were calibrated with, too"
"""What a manifest says of such an evaluation (`edge.build.inputs`)."""
SPLIT = "held out from the calibration set"


def held_out(dossier: Dossier) -> str:
    """Whether the evaluation's pictures were used for anything else."""
    told = [engine.accuracy.how for engine in dossier.engines if engine.accuracy]
    if not told:
        return "No engine was judged, so nothing can be said of an evaluation."
    if any(REUSED in how for how in told):
        return (
            "The evaluation was NOT held out: some of its pictures were calibrated with, too. "
            "The figures may flatter the engines."
        )
    text = "The evaluation was held out: none of its pictures was used to calibrate or to search for a plan."
    return (
        f"{text} Its pictures were taken out of the calibration set first."
        if any(SPLIT in how for how in told)
        else text
    )


def data_used(dossier: Dossier) -> list[tuple[str, str, str, str]]:
    """Purpose, number of pictures, folder and meaning, once for all engines."""
    used: dict[str, int] = {}
    for engine in dossier.engines:
        for purpose, count in (engine.evidence.samples_used if engine.evidence else {}).items():
            used[purpose] = max(count, used.get(purpose, 0))
    config = next((e.manifest.config for e in dossier.engines if e.manifest.config), {})
    calibration = _folder(config.get("calibration"))
    rows = []
    if "ranges" in used:
        rows.append(
            (
                "Calibration",
                f"{used['ranges']:,}",
                calibration,
                "ranges were measured and weights rounded on them",
            )
        )
    for purpose, count in sorted(used.items()):
        if purpose.startswith("sensitivity"):
            rows.append(
                (
                    purpose[0].upper() + purpose[1:],
                    f"{count:,}",
                    calibration,
                    "some of them, to see what quantizing each part does",
                )
            )
    if "search" in used:
        rows.append(
            (
                "Search",
                f"{used['search']:,}",
                calibration,
                "kept from calibration; plans were compared on them",
            )
        )
    judged = max((e.accuracy.samples for e in dossier.engines if e.accuracy), default=0)
    if judged:
        folder = _folder(config.get("evaluation")) if config.get("evaluation") else calibration
        rows.append(("Evaluation", f"{judged:,}", folder, "the gate judged every engine on them"))
    return rows


def _folder(samples: object) -> str:
    return (
        tag("span", str(samples.get("images", "–")), class_="path") if isinstance(samples, Mapping) else "–"
    )


def limits(dossier: Dossier) -> list[str]:
    """What the report does not show."""
    engines = dossier.engines
    found = []
    simulated = [e.label for e in engines if e.manifest.state == "simulated"]
    bundles = [e.label for e in engines if e.manifest.state == "bundle"]
    if simulated:
        found.append(
            f"Simulated: {listed(simulated)} {_was(simulated)} not run on the device. The device's "
            "compiler took "
            "the graph; accuracy comes from a processor that imitates the device's number formats, and "
            "no speed "
            "was measured."
        )
    if bundles:
        found.append(
            f"Bundle: {listed(bundles)} {_was(bundles)} not compiled yet and not run on the device; "
            "accuracy comes "
            "from a processor that imitates its number formats. “edge build --bundle” on the device "
            "settles it."
        )
    if any(e.trail for e in engines):
        found.append(
            "Expected speed-ups are estimates that compare plans; measure on the device (“edge bench”) "
            "before "
            "relying on one."
        )
    judged = [e for e in engines if e.accuracy and e.accuracy.fp32 is not None]
    if judged:
        found.append(_few(judged))
    if any(e.accuracy and e.accuracy.metric == COSINE for e in engines):
        found.append(
            "There are no labels: it is shown that engines agree with the original, not that the original is "
            "right."
        )
    if not all(e.evidence for e in engines):
        without = [e.label for e in engines if not e.evidence]
        found.append(
            f"Of {listed(without)} only the manifest is known, as for an engine that another machine built."
        )
    found.append(
        "The report compares engines with the original network on the evaluation’s pictures. Whether the "
        "network "
        "itself is fit for its purpose, and whether these pictures are like those of its use, it cannot tell."
    )
    return found


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _few(judged: Sequence[Engine]) -> str:
    """How far a figure of so many pictures can be trusted."""
    accuracy, metric = judged[0].accuracy, metric_of(judged)
    assert accuracy is not None and accuracy.fp32 is not None
    errors = [e.accuracy.drop_error for e in judged if e.accuracy and e.accuracy.drop_error is not None]
    text = f"The evaluation has {counted(accuracy.samples, 'picture')}: small differences are chance"
    if errors and max(errors) > 0:
        most = f"{number(max(errors), metric.digits)}{metric.unit}"
        return f"{text}. With other pictures a loss would differ by about {most} (one standard error)."
    gains = [-e.drop for e in judged if e.drop is not None and e.drop < 0]
    if gains and float(number(max(gains), metric.digits)):
        text += f", as a gain of {number(max(gains), metric.digits)}{metric.unit} over the original shows"
    return f"{text}."
