"""The table of stages, in the paper's order. Standard library alone, so that `openherd stages` and `openherd where` answer at once.

`version` is raised whenever the same input would give another result: it is part of every run's digest.
"""

from typing import NamedTuple


class Stage(NamedTuple):
    """One stage: its name on the command line, the paper's section, where its function is, its version, and one line."""

    name: str
    section: str
    target: str  # "module:function"
    version: int
    summary: str
    words: str  # further words that `openherd where` finds it by


STAGES = (
    Stage("python-docs", "3.1", "openherd.data.python_docs:python_docs", 1,
          "render the running Python's documentation as web pages in a WARC file", "crawl pydoc example corpus warc"),
    Stage("sources", "3.1", "openherd.data.sources:sources", 2,
          "read WARC, HTML, text, Markdown, JSON Lines or Parquet into pages", "warc common crawl read input lineage"),
    Stage("url-filter", "3.1.1", "openherd.data.url_filter:url_filter", 2,
          "drop pages by address, and older versions of the same address", "url domain block list adult pii safety"),
    Stage("extraction", "3.1.1", "openherd.data.extraction:extraction", 1,
          "main content of HTML as text, code blocks kept", "html text boilerplate main content"),
    Stage("language", "3.1.1", "openherd.data.language:language", 1,
          "identify languages and keep those asked for", "language identification multilingual fasttext"),
    Stage("dedup-documents", "3.1.1", "openherd.data.dedup_documents:dedup_documents", 1,
          "remove exact and near-duplicate documents (MinHash)", "minhash deduplication near-duplicate exact"),
    Stage("dedup-lines", "3.1.1", "openherd.data.dedup_lines:dedup_lines", 1,
          "remove lines that occur too often", "line deduplication ccnet boilerplate"),
    Stage("heuristics", "3.1.1", "openherd.data.heuristics:heuristics", 1,
          "drop low-quality documents: repetition, dirty words, outlier tokens", "gopher c4 quality filter kl divergence n-gram"),
    Stage("holdout", "3.1.3", "openherd.data.holdout:holdout", 1,
          "set documents aside for evaluation, apart from all that is trained on", "held-out validation split test"),
    Stage("tokenizer", "3.2", "openherd.tokenizer.train:tokenizer", 2,
          "train a byte-level BPE tokenizer with Llama 3's split pattern", "bpe vocabulary tokenizer.json"),
    Stage("token-shards", "3.1.2", "openherd.data.token_shards:token_shards", 2,
          "encode documents into flat token files, one source each", "tokens shards packing mix uint32"),
    Stage("pretrain", "3.4.1", "openherd.training.pretrain:pretrain", 1,
          "initial pre-training: warm-up, cosine, batch ramp", "pre-training base model adamw cosine"),
    Stage("long-context", "3.4.2", "openherd.training.long_context:long_context", 2,
          "raise the sequence length in stages, with the RoPE change", "long context rope 128k"),
    Stage("anneal", "3.4.3", "openherd.training.anneal:anneal", 2,
          "learning rate to zero on upweighted sources, checkpoints averaged", "annealing averaging polyak upweight"),
    Stage("dialogs", "4.2.3", "openherd.posttraining.dialogs:dialogs", 2,
          "make question-and-answer dialogs from documentation", "questions answers instruction data"),
    Stage("sft", "4.1.3", "openherd.posttraining.sft:sft", 2,
          "supervised finetuning on dialogs; loss on the assistant's tokens only", "finetuning instruction chat mask"),
    Stage("evaluate-text", "5.1", "openherd.evaluation.text:evaluate_text", 2,
          "bits per byte on held-out documents, beside xz and a trigram model", "bits per byte perplexity held-out xz trigram"),
    Stage("evaluate-answers", "5.2", "openherd.evaluation.answers:evaluate_answers", 3,
          "exact match and token-F1 of answers, beside nearest-question retrieval", "exact match f1 questions score"),
    Stage("report", "5", "openherd.report.page:report", 1,
          "one self-contained page about a run", "html plots figures funnel"),
)  # fmt: skip

BY_NAME = {stage.name: stage for stage in STAGES}


def where(query: str) -> list[Stage]:
    """Stages by paper section ('3.4.2', '3.4') or by a word ('annealing')."""
    if query.replace(".", "").isdigit():
        return [s for s in STAGES if s.section == query or s.section.startswith(query + ".")]
    word = query.lower().replace("_", "-")
    stem = word.removesuffix("ing").removesuffix("s")
    return [s for s in STAGES if any(w in f"{s.name} {s.words} {s.summary}".lower() for w in (word, stem))]
