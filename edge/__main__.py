"""`python -m edge` is the console script `edge`."""

import sys

from edge.cli import main

sys.exit(main())
