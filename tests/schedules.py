"""Set-ups of a GPU run drawn from a seed, and a place to run them: real code on a simulated device."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import kernel_on_host
import numpy as np
import pytest
from fakes.cuda import FakeCuda
from fakes.ort import FakeOnnxRuntime
from fakes.tensorrt import FakeTensorRT, fake_plan
from streaming import SIZE, Collect, Script, config_of, feed, heatmap_graph, pictures

from edge import tasks
from edge.backends import EngineOptions, backend
from edge.preprocess import Preprocess
from edge.sources import Allocate, Picture, numpy_memory
from edge.stream.network import Network
from edge.stream.run import Run
from edge.types import EngineId, Result

SIZES = ((24, 40), (48, 32), (33, 17), (SIZE, SIZE))
"""Of the pictures: two are wider or higher than the input, one is odd, one fits."""

PICTURES = [picture for seed, size in enumerate(SIZES) for picture in pictures(5, seed, size)]


@dataclass(frozen=True)
class Setup:
    """What a schedule runs on.

    Attributes:
        on_device: the kernel fits the pictures, not the processor.
        lent: sources decode into page-locked frame buffers.
        live: newest frame wins, others are dropped; without it readers wait.
        stalls: seconds that the source takes now and then for a frame.
        in_order: executions of different slots follow each other.
        frames: pictures of each feed, by their index in `PICTURES`.
    """

    frames: tuple[tuple[int, ...], ...]
    integrated: bool = False
    runtime: str = "tensorrt"
    slots: int = 2
    batch: int = 1
    on_device: bool = False
    lent: bool = False
    graphs: bool = True
    in_order: bool = True
    warm: bool = False
    live: bool = False
    stalls: float = 0.0

    @classmethod
    def of(cls, seed: int) -> Setup:
        dice = random.Random(seed)
        on_device = dice.random() < 0.5 and not kernel_on_host.ABSENT
        feeds = dice.choice((1, 1, 2))
        sizes = dice.choice((range(5), range(len(PICTURES))))  # one size, or all of them
        return cls(
            integrated=dice.random() < 0.4,
            runtime=dice.choices(("tensorrt", "tensorrt_rtx", "onnxruntime_cuda"), (7, 2, 1))[0],
            slots=dice.choice((2, 2, 2, 2, 1, 3, 4)),
            batch=dice.choice((1, 1, 1, 2, 3)),
            on_device=on_device,
            lent=on_device and dice.random() < 0.7,
            graphs=dice.random() < 0.7,
            in_order=dice.random() < 0.5,
            warm=dice.random() < 0.3,
            live=dice.random() < 0.15,
            stalls=dice.choice((0.0, 0.0, 0.0, 0.001)),
            frames=tuple(tuple(dice.choices(sizes, k=10 // feeds)) for _ in range(feeds)),
        )

    def source(self, index: int) -> Script:
        """Reads the pictures of one feed."""
        steps: list[Any] = []
        for number, picture in enumerate(self.frames[index]):
            steps += (
                [self.stalls, PICTURES[picture]] if self.stalls and number % 4 == 3 else [PICTURES[picture]]
            )
        return (Decoder if self.lent else Script)(steps, live=self.live)


class Decoder(Script):
    """Decodes into memory that it is lent, as a video file does."""

    allocate: Allocate = staticmethod(numpy_memory)

    def read(self) -> Picture | None:
        picture = super().read()
        if picture is None:
            return None
        buffer = self.allocate(picture.image.shape)
        buffer[...] = picture.image
        return Picture(buffer, picture.pts)


class Workplace:
    """The tiny network as an engine for each runtime, and what it finds in each picture."""

    def __init__(self, folder: Path) -> None:
        self.graph = heatmap_graph(folder / "tiny.onnx", batch="n")
        self.cache = folder / "cache"
        for runtime in ("tensorrt", "tensorrt_rtx"):
            self._engine(runtime).write_bytes(fake_plan(self.graph, rtx=runtime == "tensorrt_rtx"))
        self.expected = self._serial()

    def _engine(self, runtime: str) -> Path:
        return self.graph if runtime == "onnxruntime_cuda" else self.graph.with_name(f"{runtime}.plan")

    def _serial(self) -> list[Result]:
        """One picture after the other, without delays, fitted on the processor."""
        setup = Setup((tuple(range(len(PICTURES))),), slots=1, graphs=False)
        with FakeCuda(jitter=False) as cuda:
            return self.run(cuda, setup, serial=True)

    def run(self, cuda: FakeCuda, setup: Setup, serial: bool = False) -> list[Result]:
        """Stream the pictures through the real backend and pipeline; everything is closed afterwards."""
        with pytest.MonkeyPatch.context() as patch:
            cuda.install(patch)
            FakeTensorRT(cuda, rtx=setup.runtime == "tensorrt_rtx").install(patch)
            FakeOnnxRuntime(cuda).install(patch)
            kernel_on_host.install(cuda, patch, self.cache)
            network, sink = self._network(setup), Collect()
            if setup.warm:
                network.warm_up()
            feeds = [feed(str(i), setup.source(i)) for i in range(len(setup.frames))]
            summary = Run(network, feeds, [("collect:", sink)], serial=serial).go()
            network.close()
            cuda.assert_clean()
            assert summary.exit_code == 0, summary.data
            rows = summary.data["feeds"]
            assert all(r["captured"] == r["delivered"] + sum(r["dropped"].values()) for r in rows), rows
            return sink.results

    def _network(self, setup: Setup) -> Network:
        config = config_of(self.graph)
        picture = config.input if setup.on_device else None
        options = EngineOptions(
            batch=setup.batch, graphs=setup.graphs, in_order=setup.in_order, picture=picture
        )
        engine = backend(setup.runtime).load(self._engine(setup.runtime), options)
        assert engine.takes_pictures == setup.on_device
        return Network(
            EngineId("tiny", "hopper", "fast", "k0"),
            engine,
            Preprocess(config.input),
            tasks.create(config),
            "image",
            slots=setup.slots,
            patience=0.0005 if setup.batch > 1 else 0.0,
        )

    def check(self, seed: int, setup: Setup, jitter: bool = True) -> None:
        """Run it; every frame's finding has to be the one of its picture, to the last bit.

        Raises:
            AssertionError: it is not, or a rule was broken; the message tells seed and set-up.
        """
        try:
            with FakeCuda(seed, setup.integrated, jitter=jitter) as cuda:
                self._compare(setup, self.run(cuda, setup))
        except AssertionError as e:
            raise AssertionError(f"seed {seed}: {setup}\n{e}") from e

    def _compare(self, setup: Setup, results: Sequence[Result]) -> None:
        assert setup.live or len(results) == sum(map(len, setup.frames))
        for result in results:
            frame, found = result.frame, cast(Any, result.payload)
            expected = cast(Any, self.expected[setup.frames[int(frame.feed)][frame.seq]].payload)
            np.testing.assert_array_equal(found.heat, expected.heat, f"frame {frame.seq} of {frame.feed}")
            assert found.to_json() == expected.to_json()
