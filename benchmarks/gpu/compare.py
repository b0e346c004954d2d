"""Are the GPU's results those of the processor, and the overlapped loop's those of the serial one?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.backends import EngineOptions
from edge.config import InputConfig
from edge.cuda import kernels, rule
from edge.cuda.device import Device, open_device
from edge.cuda.picture import PicturePreprocess, SourcePicture
from edge.preprocess import Preprocess, plan_fit, value_table
from edge.stream.network import Network, open_network
from edge.types import Array, Image
from gpu import engines
from gpu.report import Section
from gpu.setting import SAMPLES, Deadline, Setting, or_say_why
from gpu.streams import Memory, Results, noise, page_locked, stream

if TYPE_CHECKING:
    from edge.tasks import Sample


def check(setting: Setting, found: Section) -> None:
    deadline = Deadline(setting.seconds)
    with or_say_why(found, "GPU preprocessing"):
        preprocessing(setting, found)
    contender = engines.best(setting, found)
    if contender is None:
        return
    found.note("engine", contender.label)
    overlapped_is_serial(setting, found, contender)
    if contender.kind == "synthetic":
        synthetic_is_right(setting, found, contender)
        found.skip("results against the processor's engine", "no runtime here can run the model's engine")
        return
    others = [other for other in engines.compiled(setting) if other.label != contender.label]
    for other in [contender, *(other for other in others if engines.loads(setting, other, found))]:
        against_processor(setting, found, other, deadline)


# ---------------------------------------------------------------------- preprocessing


def preprocessing(setting: Setting, found: Section) -> None:
    """Share of bytes in which the kernel's result differs from the rule's: frames and held-out pictures."""
    config = setting.config().input
    pictures = [*noise(setting.frame, 2), *noise(config.size, 1), *noise((37, 53), 1)]
    pictures += _pictures(setting, max(2, int(8 * setting.pace)))
    device = open_device(setting.gpu)
    try:
        kernel = kernels.load(device)
        for dtype in ("float32", "float16", "bfloat16", "int8", "float8_e4m3fn"):
            scale = 1 / 127 if dtype in ("int8", "float8_e4m3fn") else 1.0
            fit = PicturePreprocess(device, kernel, config, dtype, scale)
            values = rule.words(value_table(config), dtype, scale)
            differ = [_differing(on_device(device, fit, p), _by_rule(config, p, values)) for p in pictures]
            fit.free()
            found.expect(f"bytes that differ from the rule, {dtype}", float(np.mean(differ)), 0.0)
            if dtype == "float32":
                found.note("bytes that differ from OpenCV here", _from_opencv(config, pictures, values))
    finally:
        device.close()


def on_device(device: Device, fit: PicturePreprocess, picture: Image) -> Array:
    """What the kernel makes of one picture: C × H × W, as unsigned words of the input type's size."""
    source = device.exchange((picture.nbytes,), np.uint8)
    shape = (fit.config.channels, *fit.config.size)
    out = device.exchange(shape, f"u{fit._words.itemsize}")
    stream = device.stream()
    try:
        source.host[...] = picture.ravel()
        source.upload(stream)
        height, width = picture.shape[:2]
        described = SourcePicture(source.address, "bgr8", width, height, picture.strides[0])
        fit.launch(stream, described, out.address)
        out.download(stream)
        stream.synchronize()
        return np.array(out.host)
    finally:
        for resource in (source, out, stream):
            resource.free()


def _by_rule(config: InputConfig, picture: Image, values: Array) -> Array:
    return rule.preprocess(config, plan_fit(config, *picture.shape[:2]), picture, values)


def _from_opencv(config: InputConfig, pictures: list[Image], values: Array) -> float:
    """OpenCV's builds for ARM resize by slightly other numbers than its own rule: noted, not judged."""
    prepare = Preprocess(config)
    return float(
        np.mean([_differing(prepare.batch([p])[0][0], _by_rule(config, p, values)) for p in pictures])
    )


def _differing(a: Array, b: Array) -> float:
    """Share of bytes."""
    one, other = (np.ascontiguousarray(x).view(np.uint8).ravel() for x in (a, b))
    return float(np.mean(one != other))


# ---------------------------------------------------------------------- the two loops


def overlapped_is_serial(setting: Setting, found: Section, contender: engines.Contender) -> None:
    """The same pictures through both loops, with and without CUDA graphs: identical findings, in order."""
    pictures = _pictures(setting, 16)
    frames = max(len(pictures), int(200 * setting.pace))
    runs: dict[str, list[Any]] = {}
    for graphs in (True, False):
        options = EngineOptions(gpu=setting.gpu, graphs=graphs)
        with contender.network(options, slots=3) as network:
            images = _by_size(network, pictures)
            for serial in (True, False):
                sink = Results()
                stream(network, [Memory(images)], frames, sink, serial)
                runs[f"{'serial' if serial else 'overlapped'}, graphs {graphs}"] = sink.findings
            images.clear()
    first = next(iter(runs.values()))
    found.expect("frames compared", len(first), frames)
    found.expect(
        "overlapped findings that differ from serial ones",
        sum(_unlike(first, other) for other in runs.values()),
        0,
    )


def _by_size(network: Network, pictures: list[Image]) -> list[Image]:
    """Every other picture in a page-locked buffer, so that both ways to the device are taken."""
    return [
        page_locked(network, [picture])[0] if index % 2 else picture for index, picture in enumerate(pictures)
    ]


def _unlike(first: list[Any], other: list[Any]) -> int:
    return abs(len(first) - len(other)) + sum(bool(a != b) for a, b in zip(first, other, strict=False))


def synthetic_is_right(setting: Setting, found: Section, contender: engines.Contender) -> None:
    """Every word of the synthetic engine, through picture slots, against the processor's arithmetic."""
    from gpu.synthetic import SyntheticEngine, on_processor

    config = setting.config().input
    wrong = 0
    with contender.network(EngineOptions(gpu=setting.gpu), slots=1) as network:
        engine = network.engine
        assert isinstance(engine, SyntheticEngine)
        slot: Any = network.slots()[0]
        for picture in noise(setting.frame, max(2, int(8 * setting.pace)), seed=5):
            network.prepare(_frame(picture), slot)
            slot.submit()
            words = slot.wait()["words"]
            tensor = Preprocess(config).batch([picture])[0]
            wrong += int(np.count_nonzero(words != on_processor(tensor, engine.out_words, engine.rounds)))
    found.expect("words of the synthetic engine that are wrong", wrong, 0)


def _frame(picture: Image) -> Any:
    from edge.types import Frame

    return Frame("compare", 0, picture, None, 0.0, 0.0)


# ---------------------------------------------------------------------- the processor's engine


def against_processor(
    setting: Setting, found: Section, contender: engines.Contender, deadline: Deadline
) -> None:
    """Raw outputs and findings on the held-out pictures, against the processor's fp32 engine and the gate."""
    from edge import tasks
    from edge.build import verify

    config = setting.config()
    entry = setting.store.current(config.name, "cpu", "exact")
    samples = _samples(setting)
    if entry is None or not samples:
        found.skip(
            f"{contender.label} against the processor", "there is no engine or picture to compare with"
        )
        return
    processor = open_network(entry, EngineOptions())
    folder = Path(setting.folder, "cases")
    folder.mkdir(exist_ok=True)
    tick = lambda done, total: deadline.check()  # noqa: E731
    try:
        name = processor.input_name
        reference = verify.Reference(
            tasks.create(config), config.input, name, samples, processor.engine.run, folder, tick
        )
        with contender.network(EngineOptions(gpu=setting.gpu), slots=1) as network:
            accuracy = verify.measure(network.engine.run, reference, "run on the GPU", tick)
            pictures = _pictures(setting, len(samples))
            same = sum(_same_on_both_ways(network, picture) for picture in pictures)
    finally:
        processor.close()
    _tell(found, contender.label, accuracy, config.gate, verify.failures(accuracy, config.gate))
    found.expect(
        f"{contender.label}: pictures whose findings depend on who prepares", reference.count - same, 0
    )


def _tell(found: Section, label: str, accuracy: Any, gate: Any, failures: list[str]) -> None:
    found.details[label] = accuracy.model_dump()
    cosine = min((output.cosine or 0.0) for output in accuracy.outputs)
    found.at_least(f"{label}: cosine with the processor", cosine, gate.min_cosine)
    found.note(f"{label}: {accuracy.metric} (processor {accuracy.fp32:.4g})", float(accuracy.this))
    found.expect(f"{label}: passes its gate", "yes" if not failures else "; ".join(failures), "yes")


def _same_on_both_ways(network: Network, picture: Image) -> bool:
    """Whether it finds the same in what the device prepares and in what the processor does, by the rule."""
    assert network.task is not None and network.preprocess is not None
    config = network.preprocess.config
    slot: Any = network.slots()[0]
    placement = network.prepare(_frame(picture), slot)
    slot.submit()
    outputs = slot.wait()
    mine = network.interpret(outputs, placement).to_json()
    tensor = _by_rule(config, picture, rule.words(value_table(config), "float32")).view(np.float32)
    found = network.engine.run({network.input_name: tensor[None]})
    theirs = network.interpret({name: found[name] for name in outputs}, placement).to_json()
    return bool(mine == theirs)


def _samples(setting: Setting) -> list[Sample]:
    """The model's held-out pictures."""
    from edge import tasks

    config = setting.config()
    chosen = config.evaluation or config.calibration
    return list(tasks.create(config).samples(chosen))[: max(2, int(SAMPLES * setting.pace))]


def _pictures(setting: Setting, count: int) -> list[Image]:
    """The first of them, as a camera would have delivered them."""
    from edge import tasks

    task = tasks.create(setting.config())
    return [task.network_image(sample) for sample in _samples(setting)[:count]]
