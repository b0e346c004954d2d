"""What the tests of the engine store share: a complete manifest to publish under."""

from __future__ import annotations

from edge.manifest import BuilderInfo, Manifest, PlanEntry


def manifest(
    model: str = "net", target: str = "cpu", variant: str = "fast", key: str = "k1", **more: object
) -> Manifest:
    """A valid manifest; `more` replaces its other fields."""
    return Manifest.model_validate(
        {
            "model": model,
            "target": target,
            "variant": variant,
            "key": key,
            "state": "verified",
            "graph_sha256": "0" * 64,
            "carrier": "fp32",
            "builder": BuilderInfo(name="onnxruntime", version="1.20"),
            "backend": "onnxruntime",
            "engine_file": "engine.onnx",
            "plan": [PlanEntry(node="conv", op="Conv", precision="int8", reason="pays")],
            **more,
        }
    )
