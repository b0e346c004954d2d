"""Is int8 faster than fp32 on this processor, and what becomes of accuracy?

    python benchmarks/cpu_int8.py [--models burned_in_text,squeezenet1.1,yolox_nano] [--json FILE]

For each model `edge build --targets cpu` makes the graph in fp32, with unsigned asymmetric (u8×s8)
and with signed symmetric (s8×s8) activations, measures them in turn, and publishes as `fast` the fastest that
passes its gate. The line printed is the manifest's own reason; ratios below 1 are faster than fp32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from build_matrix import build
from common import arguments, report


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", default="burned_in_text,squeezenet1.1,yolox_nano")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for model in args.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows = build(model, "cpu", Path(folder) / "engines", Path(folder) / "rows.json")["rows"]
        fast = next(row for row in rows if row["variant"] == "fast")
        accuracy = fast["accuracy"]
        figures[model] = (
            f"{fast['reason']}; {accuracy['metric']} {accuracy['this']:.4g} (fp32 {accuracy['fp32']:.4g})"
        )
    report("cpu_int8", figures, args.json)


if __name__ == "__main__":
    main()
