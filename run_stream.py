#!/usr/bin/env python3
"""`edge run` without installing the package: stream feeds through an engine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from edge.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
