"""Cells in, lines of text in columns out."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(cells: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Columns of equal width: column `left` (the arm) to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(c.ljust(w) if i == left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return [line.rstrip() for line in lines]
