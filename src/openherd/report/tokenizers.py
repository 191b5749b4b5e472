"""The page of `openherd tokenizer compare`: two tokenizers on the same text (paper 3.2)."""

from collections.abc import Mapping, Sequence

from openherd.report.figures import grouped_bars
from openherd.report.markup import document, element, figure, join, paragraph, table


def comparison_page(
    facts: Sequence[str],
    languages: Sequence[str],
    bytes_per_token: Mapping[str, Sequence[float]],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    """One self-contained page: bytes per token by language as bars, and the whole table."""
    drawing = grouped_bars(languages, bytes_per_token, "bytes per token (more: fewer tokens for the same text)")
    sections = [
        ("picture", "Bytes per token", figure(drawing, "Bytes per token of both tokenizers, by language.")),
        ("table", "By language", table("By language", head, rows, right=range(1, len(head)))),
    ]
    header = join([element("h1", "Two tokenizers on the same text"), *map(paragraph, facts)])
    return document("openherd: two tokenizers", sections, header)
