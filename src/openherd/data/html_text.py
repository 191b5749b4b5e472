"""Blocks as plain text: empty lines between paragraphs, list entries and table rows on lines of their own, tabs between cells."""

from collections import defaultdict
from collections.abc import Sequence

from openherd.data.html_blocks import HEADINGS, Block

CELL = 200  # characters; rows with longer cells are a page's layout, no table
ON_LINES = frozenset(("li", "dt", "dd"))
CELLS = frozenset(("td", "th", "tr"))


def rows_of(blocks: Sequence[Block]) -> set[int]:
    """Rows of tables that hold data: more than one cell, none of them long."""
    cells: dict[int, set[int]] = defaultdict(set)
    long: set[int] = set()
    for block in blocks:
        if block.row >= 0:
            cells[block.row].add(block.cell)
            if len(block.text) > CELL or block.kind in HEADINGS:
                long.add(block.row)
    return {row for row, found in cells.items() if len(found) > 1 and row not in long}


def text_of(blocks: Sequence[Block]) -> str:
    """The text of blocks."""
    data = rows_of(blocks)
    pieces: list[str] = []
    before: Block | None = None
    for block in blocks:
        text = block.text
        row = block.row in data
        if row and not block.code:
            text = " ".join(text.split())
        if before is not None:
            before_row = before.row in data
            if row and before_row and before.row == block.row:
                pieces.append(" " if before.cell == block.cell else "\t" * (block.cell - before.cell))
            elif (
                (row and before_row)
                or (block.kind in ON_LINES and before.kind in ON_LINES)
                or (block.code and before.code and block.row >= 0 and before.row >= 0)
                or (block.kind in CELLS and before.kind in CELLS and len(text) <= CELL and len(before.text) <= CELL)
            ):
                pieces.append("\n")
            else:
                pieces.append("\n\n")
        pieces.append(text)
        before = block
    return "".join(pieces)
