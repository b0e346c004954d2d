"""How the commands print tables: on a terminal in its width, else wide enough to be read and searched."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 160
"""Columns where there is no terminal; the environment's COLUMNS sets others."""


def console() -> Console:
    """Prints on standard output."""
    from rich.console import Console

    given = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, highlight=False, soft_wrap=False, width=None if given else WIDE)


def plain_table(*columns: str, whole: tuple[str, ...] = ()) -> Table:
    """A table with a line under its header and nothing else.

    Args:
        whole: columns whose words are not broken to make room for others.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD, header_style="dim", pad_edge=False, show_header=any(columns), show_edge=False
    )
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    return table
