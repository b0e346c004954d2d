"""How long each layer of an engine takes, as TensorRT itself measures it."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any


class LayerTimes:
    """Listens to the execution contexts of an engine. TensorRT synchronizes for it: never in a stream that
    has to be fast, and never within a CUDA graph, whose replay tells nothing."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._seen: dict[str, list[float]] = {}
        self._profilers: list[Any] = []
        """A context keeps no reference to its own."""

    def attach(self, context: Any) -> None:
        seen = self._seen

        class Profiler(self._trt.IProfiler):  # type: ignore[misc,name-defined]
            def __init__(self, trt: Any) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                seen.setdefault(layer_name, []).append(ms / 1e3)

        self._profilers.append(Profiler(self._trt))
        context.profiler = self._profilers[-1]

    def clear(self) -> None:
        """Forget what was measured while the device warmed up."""
        self._seen.clear()

    @property
    def seconds(self) -> Mapping[str, float]:
        """By the name that the engine inspector gives a layer: the median of its runs."""
        return {name: median(times) for name, times in self._seen.items()}
