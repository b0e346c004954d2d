#!/usr/bin/env python3
"""`edge build` without installing the package: build, check and publish the engines of a model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from edge.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
