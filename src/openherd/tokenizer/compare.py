"""`openherd tokenizer compare`: two tokenizers on the same text, by language (paper 3.2 compares characters per token)."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.core.records import read_jsonl, read_parquet
from openherd.report.tokenizers import comparison_page
from openherd.tokenizer.files import open_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer

AT_ONCE = 256  # documents
TABLES = ("train.parquet", "documents.parquet")  # of run directories


HEAD = (
    "language", "bytes", "characters/token A", "B", "bytes/token A", "B", "tokens/word A", "B", "tokens B/A",
)  # fmt: skip


@dataclass
class Count:
    """Text of one language, and the tokens that each tokenizer makes of it."""

    characters: int = 0
    n_bytes: int = 0
    words: int = 0  # between spaces
    tokens_a: int = 0
    tokens_b: int = 0

    def add(self, text: str, tokens_a: int, tokens_b: int) -> None:
        """Count one text."""
        self.characters += len(text)
        self.n_bytes += len(text.encode())
        self.words += len(text.split())
        self.tokens_a += tokens_a
        self.tokens_b += tokens_b

    def __add__(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def row(self, name: str) -> tuple[str, ...]:
        """What the table says of it."""
        both = (self.tokens_a, self.tokens_b)
        return (
            name,
            f"{self.n_bytes:,}",
            *(f"{self.characters / n:.2f}" for n in both),
            *(f"{self.n_bytes / n:.2f}" for n in both),
            *(f"{n / max(self.words, 1):.2f}" for n in both),
            f"{self.tokens_b / self.tokens_a:.3f}",
        )


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of documents: Parquet or JSON Lines with `text` and perhaps `language`, a run directory, or text files.

    A text file's language is its name. Raises InputError for anything else.
    """
    if path.is_dir():
        tables = [path / name for name in TABLES if (path / name).exists()][:1]
        files = tables or sorted(path.glob("*.txt"))
        if not files:
            raise InputError(path, "no documents", allowed=f"{', '.join(TABLES)} or *.txt")
        for file in files:
            yield from read_texts(file)
    elif not path.exists():
        raise InputError(path, "no such file or directory")
    elif path.suffix == ".txt":
        try:
            yield path.stem, path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(path, f"not UTF-8 ({error.reason} at byte {error.start})", do="convert it to UTF-8") from None
    elif path.suffix in (".parquet", ".jsonl"):
        for number, row in enumerate(read_parquet(path) if path.suffix == ".parquet" else read_jsonl(path), 1):
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise InputError(f"{path}, row {number}", "no text", allowed='rows with a "text", and perhaps a "language"')
            yield row.get("language") or "unknown", row["text"]
    else:
        raise InputError(path, "no documents", allowed=".parquet, .jsonl, .txt, a folder of .txt or a run directory")


def count_by_language(pair: tuple[Tokenizer, Tokenizer], data: Path) -> dict[str, Count]:
    """Count the texts of `data`, the language with the most bytes first. Raises InputError where there is no text."""
    counts: dict[str, Count] = {}
    waiting: list[tuple[str, str]] = []

    def count() -> None:
        texts = [text for _, text in waiting]
        lengths = [[len(ids) for ids in tokenizer.encode_arrays(texts)] for tokenizer in pair]
        for (language, text), first, second in zip(waiting, *lengths, strict=True):
            counts.setdefault(language, Count()).add(text, first, second)
        waiting.clear()

    with Progress("compare", 0, "documents") as progress:
        for row in read_texts(data):
            waiting.append(row)
            if len(waiting) == AT_ONCE:
                count()
                progress.advance(AT_ONCE)
        count()
    counts = {language: c for language, c in counts.items() if c.n_bytes}
    if not counts:
        raise InputError(data, "no text")
    return dict(sorted(counts.items(), key=lambda item: (-item[1].n_bytes, item[0])))


def compare(first: Path, second: Path, data: Path, page: Path | None) -> str:
    """The comparison as a table; with `page` also as a page with a picture."""
    a, b = open_tokenizer(first), open_tokenizer(second)
    counts = count_by_language((a, b), data)
    rows = [count.row(name) for name, count in {**counts, "all": sum(counts.values(), Count())}.items()]
    shared = len(set(a.tokens) & set(b.tokens))
    facts = [
        f"A: {first}, {len(a.tokens):,} tokens, {shared / len(a.tokens):.1%} of them in B",
        f"B: {second}, {len(b.tokens):,} tokens, {shared / len(b.tokens):.1%} of them in A",
        "Special tokens are left out. Words stand between spaces; Chinese, Japanese and Thai have few.",
    ]
    if page is not None:
        per_token = {"A": [c.n_bytes / c.tokens_a for c in counts.values()], "B": [c.n_bytes / c.tokens_b for c in counts.values()]}
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(comparison_page(facts, list(counts), per_token, HEAD, rows), encoding="utf-8")
    widths = [max(len(line[i]) for line in (HEAD, *rows)) for i in range(len(HEAD))]
    table = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in (HEAD, *rows)
    ]
    return "\n".join([*facts, "", *table, *([f"page  {page}"] if page else [])])
