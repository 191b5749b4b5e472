"""The heuristics beside datatrove's filters: documents per CPU second, and whether every rule that both have decides alike.

datatrove 0.10.1 runs where `.venv-datatrove` has it (python -m venv .venv-datatrove; .venv-datatrove/bin/pip install
datatrove==0.10.1 spacy regex xxhash). Its four filters run as FineWeb's recipe has them (GopherRepetition, GopherQuality, C4
without the rule on end marks, FineWebQuality), each document until it is dropped, its tokenizer loaded before; ours measures
all rules of all documents. Documents: HTML, Markdown, manual pages and text that is installed here, and the texts of
../shared/data.

Decisions are compared rule by rule on all documents, both with the same words (datatrove's split at blanks as ours does): the rules
are the same, what is a word is not. `differing` counts documents, by rule; `stock` compares with datatrove's own words by spaCy.
"""

import gzip
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-datatrove" / "bin" / "python"
SHARED = ROOT.parent / "shared" / "data"
DOCUMENTS = 1_000
REPEATS = 2
GOPHER = {  # datatrove's argument, its reason, ours
    "dup_para_frac": ("dup_para_frac", "duplicate_paragraph_share"),
    "dup_para_char_frac": ("dup_para_char_frac", "duplicate_paragraph_character_share"),
    "dup_line_frac": ("dup_line_frac", "duplicate_line_share"),
    "dup_line_char_frac": ("dup_line_char_frac", "duplicate_line_character_share"),
}
QUALITY = {  # datatrove's reasons and our rules
    "gopher_short_doc": "words", "gopher_long_doc": "words", "gopher_below_avg_threshold": "mean_word_characters",
    "gopher_above_avg_threshold": "mean_word_characters", "gopher_too_many_hashes": "hashes_per_word",
    "gopher_too_many_ellipsis": "ellipses_per_word", "gopher_too_many_bullets": "bullet_line_share",
    "gopher_too_many_end_ellipsis": "ellipsis_line_share", "gopher_below_alpha_threshold": "alphabetic_word_share",
    "gopher_enough_stop_words": "different_stop_words", "line_punct_ratio": "end_mark_line_share",
    "short_line_ratio": "short_line_share", "char_dup_ratio": "repeated_line_character_share", "list_ratio": "line_breaks_per_word",
    "lorem_ipsum": "lorem_ipsum", "curly_bracket": "curly_brackets", "too_few_sentences": "sentences",
}  # fmt: skip
FINEWEB = {
    "counting": "datatrove", "bullets": ["•", "-"], "stop_words": ["the", "be", "to", "of", "and", "that", "have", "with"],
    "max_line_ngram_share": 1.0, "max_dirty_word_share": 1.0, "max_divergence_nats": 1e9,
    "min_end_mark_line_share": 0.12, "max_short_line_share": 0.67, "max_repeated_line_character_share": 0.01,
    "max_line_breaks_per_word": 0.3,
}  # fmt: skip
C4_LINES = {
    "remove_citations": True, "min_words_per_line": 3, "max_word_characters": 1000, "remove_javascript_lines": True,
    "remove_policy_lines": True,
}  # fmt: skip
C4_DOCUMENTS = {"drop_lorem_ipsum": True, "drop_curly_brackets": True, "min_sentences": 5}


def texts_of_this_machine(most: int) -> list[str]:
    """Texts of installed documentation and of ../shared/data, in a fixed order that mixes the kinds."""
    from resiliparse.extract.html2text import extract_plain_text

    kinds: list[list[str]] = []

    def add(texts: list[str]) -> None:
        kept = [re.sub(r"\n{3,}", "\n\n", text.replace("\r", "").strip()) for text in texts]
        kinds.append(list(dict.fromkeys(text for text in kept if 200 < len(text) < 60_000)))

    def files(root: Path, suffixes: tuple[str, ...], n: int) -> list[Path]:
        found = (path for path in sorted(root.rglob("*")) if path.name.endswith(suffixes) and path.is_file())
        chosen = [path for path in found if 500 < path.stat().st_size < 400_000]
        return chosen[:: max(len(chosen) // n, 1)][:n]

    def read(path: Path) -> str:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8", "ignore")

    def html(path: Path) -> str:
        return extract_plain_text(read(path), main_content=True, alt_texts=False, preserve_formatting=True)

    rust = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=False).stdout.strip()
    for root, n in (
        (Path(rust) / "share" / "doc", most),
        (Path("/usr/share/doc"), most // 2),
        (Path("/usr/share/cmake-3.25"), most // 4),
    ):
        if root.is_dir() and str(root) != "share/doc":
            add([html(path) for path in files(root, (".html",), n)])
            add([read(path) for path in files(root, (".md", ".rst", ".txt", ".gz"), n)])
    man = [
        re.sub(r"^[.'].*\n|\\f[A-Z]|\\[-&]", "", read(path), flags=re.M)
        for path in files(Path("/usr/share/man"), (".gz",), most // 2)
    ]
    add(man)
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        add([read(path) for path in files(Path(root), (".md", ".rst", ".txt", ".py"), most // 4)])
    for name in ("lingua_langid", "tinyshakespeare"):
        for path in sorted((SHARED / name).glob("*.txt")) if SHARED.is_dir() else []:
            lines = path.read_text(encoding="utf-8").splitlines()
            add(["\n".join(lines[i : i + 40]) for i in range(0, min(len(lines), 8_000), 40)])
    if (SHARED / "article_extraction" / "ground-truth.json").exists():
        truth = json.loads((SHARED / "article_extraction" / "ground-truth.json").read_text(encoding="utf-8"))
        add([page["articleBody"] for page in truth.values()])
    mixed = [kind[i] for i in range(max(map(len, kinds))) for kind in kinds if i < len(kind)]
    return list(dict.fromkeys(mixed))[:most]


def seconds(work: object) -> float:
    """CPU seconds of this process for a call."""
    start = time.process_time()
    work()  # type: ignore[operator]
    return time.process_time() - start


def datatrove(folder: Path) -> None:
    """In datatrove's own environment: times and decisions for the documents of `folder`, as JSON beside them."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    recipe = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    recipe[1].filter(Document(text="The tokenizer is loaded now.", id="0"))

    def run_recipe(part: list[str]) -> list[str]:
        reasons = []
        for text in part:
            document, reason = Document(text=text, id="0"), ""
            for step in recipe:
                kept = step.filter(document)
                if kept is not True:
                    reason = kept[1]
                    break
            reasons.append(reason)
        return reasons

    start = time.process_time()
    reasons = run_recipe(texts)
    taken = time.process_time() - start
    nothing = {"dup_line_frac": None, "dup_para_frac": None, "dup_line_char_frac": None, "dup_para_char_frac": None}
    nothing |= {"top_n_grams": (), "dup_n_grams": ()}
    limits = {"dup_line_frac": 0.3, "dup_para_frac": 0.3, "dup_line_char_frac": 0.2, "dup_para_char_frac": 0.2}
    rules = {GOPHER[name][1]: GopherRepetitionFilter(**{**nothing, name: limit}) for name, limit in limits.items()}
    for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16)):
        rules[f"top_{n}gram_share"] = GopherRepetitionFilter(**{**nothing, "top_n_grams": ((n, limit),)})
    for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)):
        rules[f"duplicate_{n}gram_share"] = GopherRepetitionFilter(**{**nothing, "dup_n_grams": ((n, limit),)})
    none = dict.fromkeys(
        (
            "min_doc_words",
            "max_doc_words",
            "min_avg_word_length",
            "max_avg_word_length",
            "max_symbol_word_ratio",
            "max_bullet_lines_ratio",
            "max_ellipsis_lines_ratio",
            "max_non_alpha_words_ratio",
            "min_stop_words",
        )
    )
    for names, given in {
        "words": {"min_doc_words": 50, "max_doc_words": 100_000},
        "mean_word_characters": {"min_avg_word_length": 3, "max_avg_word_length": 10},
        "symbols": {"max_symbol_word_ratio": 0.1}, "bullet_line_share": {"max_bullet_lines_ratio": 0.9},
        "ellipsis_line_share": {"max_ellipsis_lines_ratio": 0.3}, "alphabetic_word_share": {"max_non_alpha_words_ratio": 0.8},
        "different_stop_words": {"min_stop_words": 2},
    }.items():  # fmt: skip
        rules[names] = GopherQualityFilter(**{**none, **given})
    off = {"line_punct_thr": 0.0, "short_line_thr": 2.0, "char_duplicates_ratio": 2.0, "new_line_ratio": 1e9}
    for ours, name, limit in (
        ("end_mark_line_share", "line_punct_thr", 0.12),
        ("short_line_share", "short_line_thr", 0.67),
        ("repeated_line_character_share", "char_duplicates_ratio", 0.01),
        ("line_breaks_per_word", "new_line_ratio", 0.3),
    ):
        rules[ours] = FineWebQualityFilter(**{**off, name: limit})
    documents_off = {"filter_lorem_ipsum": False, "filter_curly_bracket": False, "min_num_sentences": -1}
    for ours, given in (
        ("lorem_ipsum", {"filter_lorem_ipsum": True}),
        ("curly_brackets", {"filter_curly_bracket": True}),
        ("sentences", {"min_num_sentences": 5}),
    ):
        rules[ours] = C4QualityFilter(filter_no_terminal_punct=False, **{**documents_off, **given})
    lines = {
        name: C4QualityFilter(filter_no_terminal_punct=punct, **documents_off) for name, punct in (("c4", True), ("fineweb", False))
    }

    def decide() -> dict[str, list[bool]]:
        return {name: [rule.filter(Document(text=text, id="0")) is not True for text in texts] for name, rule in rules.items()}

    def kept_lines(rule: C4QualityFilter) -> list[list[str]]:
        found = []
        for text in texts:
            document = Document(text=text, id="0")
            rule.filter(document)
            found.append([line for line in document.text.split("\n") if line.strip()])
        return found

    told = {"cpu_s": taken, "reasons": reasons, "lines": {name: kept_lines(rule) for name, rule in lines.items()}}
    split = gopher_quality_filter.split_into_words
    cached = {}

    def spacy_words(text: str, language: str) -> list[str]:
        if text not in cached:
            cached[text] = split(text, language)
        return cached[text]

    modules = (gopher_repetition_filter, gopher_quality_filter, fineweb_quality_filter)
    by_text = dict(zip(texts, words))
    assert c4_filters.split_into_sentences
    for name, words_of in (("stock", spacy_words), ("same_words", lambda text, language: by_text[text])):
        for module in modules:
            module.split_into_words = words_of
        told[name] = decide()
    (folder / "datatrove.json").write_text(json.dumps(told), encoding="utf-8")


def ours(folder: Path, texts: list[str]) -> dict[str, object]:
    """Times of the stage's function on batches, and its measures."""
    import pyarrow as pa

    from openherd.core.config import load_config
    from openherd.data.corpus_words import count_words, write_counts
    from openherd.data.heuristics import HeuristicsConfig, prepare_heuristics

    pa.set_cpu_count(1)
    rows = [{"id": f"{i:032x}", "url": "", "text": text} for i, text in enumerate(texts)]
    batches = pa.Table.from_pylist(rows).to_batches(max_chunksize=64)
    write_counts(folder / "none.parquet", {})

    def judged(settings: dict[str, object], counts: str = "none.parquet") -> list[object]:
        judge = prepare_heuristics(load_config(HeuristicsConfig, settings, "benchmark"), {}, str(folder / counts))
        return [judge(batch) for batch in batches]

    def count_and_judge() -> list[object]:
        counted = count_words((([""] * len(batch), batch.column("text")) for batch in batches), 1_000_000)
        write_counts(folder / "counts.parquet", counted)
        return judged({}, "counts.parquet")

    fineweb = {**FINEWEB, **C4_LINES, **C4_DOCUMENTS}
    judged(fineweb)
    return {
        "fineweb_cpu_s": min(seconds(lambda: judged(fineweb)) for _ in range(REPEATS)),
        "default_cpu_s": min(seconds(count_and_judge) for _ in range(REPEATS)),
        "rules": judged(FINEWEB),
        "c4": judged({**FINEWEB, **C4_LINES, **C4_DOCUMENTS, "dry_run": False}),
        "lines": {
            name: judged({**OPEN, **C4_LINES, "remove_unfinished_lines": punct})
            for name, punct in (("c4", True), ("fineweb", False))
        },
    }


OPEN = {  # no rule drops a document
    "min_words": 0, "min_mean_word_characters": 0.0, "max_mean_word_characters": 1e9, "max_symbols_per_word": 1e9,
    "max_bullet_line_share": 1.0, "max_ellipsis_line_share": 1.0, "min_alphabetic_word_share": 0.0, "min_stop_words": 0,
    "max_duplicate_line_share": 1.0, "max_duplicate_line_character_share": 1.0, "max_duplicate_paragraph_share": 1.0,
    "max_duplicate_paragraph_character_share": 1.0, "max_top_ngram_shares": [1.0] * 3, "max_duplicate_ngram_shares": [1.0] * 6,
    "max_line_ngram_share": 1.0, "max_dirty_word_share": 1.0, "max_divergence_nats": 1e9,
}  # fmt: skip


def compare(told: dict, mine: dict, texts: list[str]) -> dict[str, object]:
    """How many documents differ, by rule."""
    from openherd.core.config import load_config
    from openherd.data.heuristics import HeuristicsConfig, limits

    allowed = limits(load_config(HeuristicsConfig, {**FINEWEB, **C4_DOCUMENTS}, "benchmark"), None)

    def broken(name: str, judged: str) -> list[bool]:
        low, high = allowed[name]
        values = [value for part in mine[judged] for value in part.measures.column(name).to_pylist()]
        return [not low <= value <= high for value in values]

    found: dict[str, dict[str, int]] = {}
    for words in ("same_words", "stock"):
        differing = {}
        for name, theirs in told[words].items():
            if name == "symbols":
                decided = [a or b for a, b in zip(broken("hashes_per_word", "rules"), broken("ellipses_per_word", "rules"))]
            else:
                decided = broken(name, "c4" if name in ("lorem_ipsum", "curly_brackets", "sentences") else "rules")
            differing[name] = sum(a != b for a, b in zip(decided, theirs, strict=True))
        found[words] = {name: n for name, n in differing.items() if n}
    for name in told["lines"]:
        kept = [text for part in mine["lines"][name] for text in part.batch.column("text").to_pylist()]
        lines = [[line.strip() for line in text.split("\n") if line.strip()] for text in kept]
        found["same_words"][f"lines_left_{name}"] = sum(a != b for a, b in zip(lines, told["lines"][name], strict=True))
    dropped = {name: sum(theirs) for name, theirs in told["same_words"].items()}
    return {
        "rules": len(told["same_words"]),
        "differing": found["same_words"],
        "stock": found["stock"],
        "dropped_by_datatrove": dropped,
    }


def main() -> None:
    """Measure everything and print the figures."""
    if not PEER.exists():
        sys.exit(f"heuristics: no {PEER.relative_to(ROOT)}; the head of this file says how to make it")
    from openherd.data.words import words

    texts = texts_of_this_machine(DOCUMENTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        (folder / "words.json").write_text(json.dumps([words(text) for text in texts]), encoding="utf-8")
        subprocess.run([PEER, __file__, str(folder)], check=True, stdout=sys.stderr)
        told = json.loads((folder / "datatrove.json").read_text(encoding="utf-8"))
        mine = ours(folder, texts)
        figures = {
            "documents": len(texts),
            "mean_characters": round(sum(map(len, texts)) / len(texts)),
            "datatrove_documents_per_cpu_s": round(len(texts) / told["cpu_s"], 1),
            "ours_same_rules_documents_per_cpu_s": round(len(texts) / mine["fineweb_cpu_s"], 1),
            "ours_default_with_corpus_documents_per_cpu_s": round(len(texts) / mine["default_cpu_s"], 1),
            "ours_over_datatrove": round(told["cpu_s"] / mine["fineweb_cpu_s"], 2),
            "ours_default_over_datatrove": round(told["cpu_s"] / mine["default_cpu_s"], 2),
            "datatrove_dropped": sum(map(bool, told["reasons"])),
            **compare(told, mine, texts),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    datatrove(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
