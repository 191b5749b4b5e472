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
          "the running Python's documentation, as WARC", "crawl pydoc example corpus warc"),
    Stage("sources", "3.1", "openherd.data.sources:sources", 6,
          "crawls, code, papers, wikis, books, rows to pages",
          "warc wet common crawl read input lineage git latex arxiv wikipedia epub gutenberg stackexchange jsonl parquet html"),
    Stage("url-filter", "3.1.1", "openherd.data.url_filter:url_filter", 4,
          "drop pages by address: lists, adult and spam words", "url domain block list adblock hosts adult spam safety punycode"),
    Stage("dedup-urls", "3.1.1", "openherd.data.dedup_urls:dedup_urls", 2,
          "of the versions of one page the newest stays", "url deduplication newest version tracking parameters"),
    Stage("extraction", "3.1.1", "openherd.data.extraction:extraction", 4,
          "main content of HTML as text; code and formulas", "html text boilerplate main content latex mathml encoding"),
    Stage("language", "3.1.1", "openherd.data.language:language", 3,
          "identify languages and keep those asked for", "language identification multilingual fasttext"),
    Stage("language-split", "3.1.1", "openherd.data.language_split:language_split", 1,
          "pages in several languages as one document each", "mixed language multilingual split"),
    Stage("language-quotas", "3.1.1", "openherd.data.language_quotas:language_quotas", 2,
          "the best documents of each language, up to a quota", "multilingual quota share quality ranking"),
    Stage("dedup-documents", "3.1.1", "openherd.data.dedup_documents:dedup_documents", 4,
          "remove exact and near duplicates (MinHash)", "minhash deduplication near-duplicate exact"),
    Stage("dedup-lines", "3.1.1", "openherd.data.dedup_lines:dedup_lines", 3,
          "remove lines that occur too often", "line deduplication ccnet boilerplate"),
    Stage("heuristics", "3.1.1", "openherd.data.heuristics:heuristics", 4,
          "drop repetition, dirty words, outlier tokens", "gopher c4 quality filter kl divergence n-gram"),
    Stage("pii", "3.1.1", "openherd.data.pii:pii", 3,
          "personal data: drop, replace or report it", "pii email phone card iban ip address names privacy redact"),
    Stage("safety-filter", "3.1.1", "openherd.data.safety_filter:safety_filter", 2,
          "known-illegal content, unsafe domains, toxic, adult", "illegal hash phishing spam toxicity adult harmful"),
    Stage("domain-filter", "3.1.1", "openherd.data.domain_filter:domain_filter", 2,
          "drop domains with much personal data or much harm", "domain pii harmful top domains"),
    Stage("name-tagger", "3.1.1", "openherd.classifiers.name_tagger:name_tagger", 1,
          "train the tagger of names that `pii` applies", "names people persons named entities pii"),
    Stage("label-documents", "3.1.1", "openherd.classifiers.labelling:label_documents", 2,
          "ask a language model for documents' labels", "quality labels annotate llm llama judge endpoint"),
    Stage("train-classifier", "3.1.1", "openherd.classifiers.train:train_classifier", 2,
          "train a fast linear classifier, and measure it", "quality fasttext toxicity adult code domain roc calibration"),
    Stage("train-transformer", "3.1.1", "openherd.classifiers.transformer:train_transformer", 2,
          "train a small Transformer classifier", "quality distilroberta bert roc calibration"),
    Stage("quality", "3.1.1", "openherd.data.quality:quality", 2,
          "keep documents by a classifier's score", "model-based quality filter classifier score downsampling"),
    Stage("code-reasoning", "3.1.1", "openherd.data.code_reasoning:code_reasoning", 2,
          "tell pages with code or reasoning from prose", "code mathematics reasoning stem pages"),
    Stage("cluster-documents", "3.1.2", "openherd.classifiers.clusters:cluster_documents", 1,
          "find fields of knowledge by clustering", "k-means tf-idf domains knowledge clusters"),
    Stage("domains", "3.1.2", "openherd.data.domains:domains", 1,
          "each document's field, and the fields' shares", "knowledge classifier topics categories share"),
    Stage("mix-documents", "3.1.2", "openherd.data.mix_documents:mix_documents", 1,
          "downsample to a mix's shares; mean epochs", "data mix shares downsampling epochs paper tutorial"),
    Stage("holdout", "3.1.3", "openherd.data.holdout:holdout", 1,
          "set documents aside, apart from all training text", "held-out validation split test"),
    Stage("tokenizer", "3.2", "openherd.tokenizer.train:tokenizer", 4,
          "train byte-level BPE with Llama 3's split pattern", "bpe vocabulary merges multilingual tokenizer.json"),
    Stage("import", "3.2", "openherd.interchange.importing:import_model", 1,
          "a Llama 3 of Hugging Face's or Meta's, checked", "load checkpoint convert safetensors pth interchange"),
    Stage("extend-tokenizer", "3.2", "openherd.interchange.extension:extend_tokenizer", 1,
          "more tokens for a model, learned on a domain", "vocabulary extension domain embeddings new tokens continued"),
    Stage("token-shards", "3.1.2", "openherd.data.token_shards:token_shards", 3,
          "encode documents into flat token files", "tokens shards packing mix uint32"),
    Stage("pretrain", "3.4.1", "openherd.training.pretrain:pretrain", 4,
          "initial pre-training: warm-up, cosine, batch ramp", "pre-training base model adamw cosine"),
    Stage("long-context", "3.4.2", "openherd.training.long_context:long_context", 5,
          "raise the sequence length in stages, change RoPE", "long context rope 128k"),
    Stage("context-gate", "3.4.2", "openherd.evaluation.context_gate:context_gate", 1,
          "short text recovered, needles found: the two gates", "long context needle haystack gate recovered"),
    Stage("anneal", "3.4.3", "openherd.training.anneal:anneal", 5,
          "rate to zero, best sources, averaged checkpoints", "annealing averaging polyak upweight"),
    Stage("continue-pretrain", "3.4", "openherd.training.continued:continue_pretrain", 2,
          "go on from any model on new text: replay, LoRA", "continued pre-training domain adaptation rewarm replay lora adapters"),
    Stage("dialogs", "4.2.3", "openherd.posttraining.dialogs:dialogs", 2,
          "make questions and answers from documentation", "questions answers instruction data"),
    Stage("sft", "4.1.3", "openherd.posttraining.sft:sft", 6,
          "finetuning; loss on the assistant's tokens", "finetuning instruction chat mask"),
    Stage("evaluate-text", "5.1", "openherd.evaluation.text:evaluate_text", 4,
          "bits per held-out byte, beside xz and trigram", "bits per byte perplexity held-out xz trigram"),
    Stage("evaluate-forgetting", "5.1", "openherd.evaluation.forgetting:evaluate_forgetting", 1,
          "bits per byte before and after, by kind of text", "forgetting domain gain continued held-out gate"),
    Stage("evaluate-answers", "5.2", "openherd.evaluation.answers:evaluate_answers", 4,
          "exact match and token-F1, beside retrieval", "exact match f1 questions score"),
    Stage("mix-experiment", "3.1.2", "openherd.scaling.mixes:mix_experiment", 1,
          "score data mixes by small models on each", "data mix proportions scaling law small models"),
    Stage("data-value", "3.1.3", "openherd.evaluation.data_value:data_value", 1,
          "score data sets by annealing on 30% of each", "annealing data set value assess quality"),
    Stage("scaling-ladder", "3.2.1", "openherd.scaling.ladder:scaling_ladder", 1,
          "laws from a ladder of runs; larger ones foretold", "scaling laws isoflop ladder compute-optimal chinchilla"),
    Stage("report", "5", "openherd.data.redacted_report:report", 2,
          "one self-contained page about a run", "html plots figures funnel"),
)  # fmt: skip

BY_NAME = {stage.name: stage for stage in STAGES}


# What is no stage of its own: section, module, one line with the words that `openherd where` finds it by.
PARTS = (
    ("3.1", "openherd.data.engine", "engine of curation: processes, shards, memory and time limits, resume"),
    ("3.1", "openherd.data.guard", "guarded processes: a crash, time-out or memory of one document loses it alone"),
    ("3.1", "openherd.data.daft_ray", "curation on a Ray cluster by Daft"),
    ("3.1", "openherd.data.tables", "DuckDB with a memory limit, for grouping and joins"),
    ("3.1.1", "openherd.data.linear_model", "linear classifiers over hashed n-grams, fastText models"),
    ("3.1.1", "openherd.data.transformer_model", "Transformer classifiers: LlamaForSequenceClassification"),
    ("3.1.1", "openherd.data.calibration", "calibration of scores: temperature, Platt, isotonic"),
    ("3.1.1", "openherd.classifiers.measures", "ROC curve, AUC, reliability, expected calibration error"),
    ("3.1.1", "openherd.core.endpoint", "any OpenAI-compatible endpoint: retries, cost"),
    ("3.2", "openherd.model.transformer", "the Transformer: pre-norm, SwiGLU, RMSNorm, residual stream, embeddings"),
    ("3.2", "openherd.model.attention", "grouped-query attention (GQA), document mask"),
    ("3.2", "openherd.model.causal", "attention kernel on a processor (CPU): blocks of queries, packed documents, backward"),
    ("3.2", "openherd.model.rope", "rotary position embedding (RoPE), theta, frequency scaling"),
    ("3.2", "openherd.model.config", "model shapes: 8B, 70B, 405B and the ladder of small sizes (Table 3)"),
    ("3.2", "openherd.model.flops", "parameters, FLOPs per token, key/value cache bytes"),
    ("3.3.2", "openherd.model.peaks", "peak TFLOP/s of devices, MFU (model FLOPs utilization)"),
    ("3.2", "openherd.model.weights", "Hugging Face model directories: safetensors, config.json"),
    ("3.2", "openherd.tokenizer.encoder", "encoding by ranks on all cores, tiktoken"),
    ("3.2", "openherd.tokenizer.files", "tokenizer.json and Meta's rank files (tokenizer.model)"),
    ("3.2", "openherd.tokenizer.continued", "byte-pair encoding learned further on new text: tokenizer extension"),
    ("3.2", "openherd.tokenizer.compare", "two tokenizers on the same text"),
    ("3.2", "openherd.interchange.exporting", "export of a model: Hugging Face, Meta, GGUF for llama.cpp and ollama"),
    ("3.2", "openherd.interchange.llama_cpp", "GGUF files: f16, bf16, q8_0"),
    ("3.2", "openherd.interchange.check", "whether an imported or exported model is the same"),
    ("3.3", "openherd.planning.search", "planner: layouts on N GPUs, fastest first, why others do not fit"),
    ("3.3", "openherd.planning.memory", "memory of a layout by part: weights, gradients, optimizer, activations, logits"),
    ("3.3", "openherd.planning.step_time", "step time, MFU, bubble, exposed communication; attention-FLOPs convention"),
    ("3.3", "openherd.planning.hardware", "hardware profiles: A100, H100, H200, B200, GB200, GB300; peaks, NVLink, network, power"),
    ("3.3", "openherd.planning.check", "planner against measured runs: vTrain, llm-foundry, Megatron-Bridge, torchtitan"),
    ("3.3", "openherd.planning.calibrate", "calibration: the planner's constants from measured runs"),
    ("3.3", "openherd.planning.exports", "layouts as torchtitan and Megatron arguments, or a recipe"),
    ("3.3", "openherd.planning.cost", "energy, carbon, cost, goodput; homes; MMLU per billion parameters"),
    ("3.3", "openherd.parallel.layout", "layouts over processes: TP, CP, PP, DP (FSDP, HSDP), and whether they can run"),
    ("3.3", "openherd.parallel.apply", "a model in its layout: the order of 4D parallelism, gradients, clipping"),
    ("3.3", "openherd.parallel.mesh", "processes and their groups: rank order, collectives"),
    ("3.3", "openherd.parallel.stage", "pipeline stages, and what an objective is"),
    ("3.3", "openherd.parallel.pipeline", "pipeline parallelism: 1F1B, interleaved, ZBV schedules"),
    ("3.3", "openherd.parallel.tensor", "tensor and sequence parallelism, vocabulary shards"),
    ("3.3", "openherd.parallel.lora", "low-rank adapters (LoRA) on a frozen base, under FSDP, TP and PP"),
    ("3.3", "openherd.parallel.context", "context parallelism: gathered keys and values, chunks"),
    ("3.3", "openherd.parallel.launch", "starting processes with torchrun's agent, restarts"),
    ("3.3", "openherd.parallel.checkpoint", "training checkpoints: asynchronous, resharded, checked"),
    ("3.3", "openherd.parallel.loss_scale", "fp16 (float16) training: dynamic loss scaling, overflows"),
    ("6", "openherd.parallel.float8", "FP8 (float8) feed-forward products, row-wise scales"),
    ("3.3", "openherd.parallel.recompute", "activation recomputation (checkpointing): none, selective, full"),
    ("3.3", "openherd.parallel.rehearsal", "one rank of a layout without processes: fake tensors, what it keeps in memory"),
    ("3.3", "openherd.training.dry_run", "dry run: layouts, memory of a device by part, steps, without GPU or data"),
    ("3.3", "openherd.training.parity", "parity: whether a layout trains as one process does"),
    ("3.3", "openherd.training.resilience", "loss spikes, NaN, rollback to the last good checkpoint, skipped data, SIGTERM"),
    ("3.3", "openherd.training.goodput", "effective training time, goodput, heartbeats, stragglers"),
    ("3.3", "openherd.training.drill", "drill: a rehearsal of failures, fault injection on real processes"),
    ("3.2.1", "openherd.scaling.fit", "scaling laws: the parametric law, Chinchilla, Hoffmann, Epoch AI, bootstrap intervals"),
    ("3.2.1", "openherd.scaling.isoflop", "scaling laws: IsoFLOPs, compute-optimal tokens and parameters"),
    ("3.2.1", "openherd.scaling.overtrain", "scaling laws: over-training (Gadre)"),
    ("3.2.1", "openherd.scaling.advise", "size and tokens for a budget, inference counted; what over-training costs and saves"),
    ("3.2.1", "openherd.scaling.forecast", "downstream prediction: NLL of the right answer, then accuracy"),
    ("3.2.1", "openherd.scaling.rungs", "scaling ladder: sizes, budgets, batch and learning rate as a recipe"),
    ("3.3.4", "openherd.planning.failures", "failures simulated: goodput, checkpoint interval, spare nodes, stragglers"),
    ("3.3.4", "openherd.planning.causes", "why runs stop: interruptions of Table 5, published rates, your own log"),
    ("3.3.4", "openherd.planning.reliability", "Young's and Daly's checkpoint intervals, what a faster restart buys"),
    ("3.4", "openherd.training.loop", "the training loop: gradients, clipping, resume, averaging"),
    ("3.4", "openherd.training.settings", "training settings: precision, AdamW, spikes, checkpoints, layout"),
    ("3.4", "openherd.training.optimizer", "AdamW, weight decay and its schedule, moments in bf16, optimizer offload"),
    ("3.4", "openherd.training.cross_entropy", "cross-entropy in parts, without a table of all logits"),
    ("3.4", "openherd.training.schedule", "learning-rate schedules: warm-up, cosine, linear"),
    ("3.4.2", "openherd.evaluation.needle", "needle in a haystack: lengths, depths, facts in held-out text"),
    ("3.4", "openherd.report.tracking", "training metrics for TensorBoard, CSV, Weights & Biases (wandb)"),
    ("3.1.1", "openherd.data.minhash", "MinHash signatures, bands and rows (LSH) from a threshold"),
    ("3.1.1", "openherd.data.shingles", "shingles and the Jaccard similarity of their sets; normalisation"),
    ("3.1.1", "openherd.data.clusters", "clusters of near-duplicates: union-find, connected components"),
    ("3.4", "openherd.data.batches", "batches as a pure function of seed, phase and index; shuffling, packing"),
    ("3.4", "openherd.data.prefetch", "batches made ahead of the step that takes them"),
    ("3.1", "openherd.data.reading", "readers by the kind of file; places from which reading goes on"),
    ("3.1", "openherd.data.warc", "WARC, WET: records, damage, gzip, zstd; Common Crawl"),
    ("3.1", "openherd.data.git_tree", "source code of git trees: programming languages, licenses (SPDX)"),
    ("3.1", "openherd.data.latex", "LaTeX sources of papers (arXiv), mathematics kept"),
    ("3.1", "openherd.data.mediawiki", "MediaWiki dumps (Wikipedia), wikitext"),
    ("3.1", "openherd.data.books", "EPUB, Project Gutenberg"),
    ("3.1", "openherd.data.stackexchange", "StackExchange dumps: questions with answers"),
    ("3.1.1", "openherd.data.urls", "addresses: normalisation, public suffixes, punycode, IP hosts"),
    ("3.1.1", "openherd.data.address_lists", "lists of domains: adblock, hosts, folders by category, allow and deny"),
    ("3.1.1", "openherd.data.pii_patterns", "personal data with a form: e-mail, phone, payment card, IBAN, IP"),
    ("3.1.1", "openherd.data.national_ids", "national ids: social security, tax and identity numbers and their checks"),
    ("3.1.2", "openherd.data.token_files", "token shards here (memory-mapped) or in object storage: s3, https, in blocks"),
    ("3.1.2", "openherd.data.block_cache", "bounded local cache of remote blocks, least recently used go first"),
    ("3.1.2", "openherd.data.mix", "data mix: which source each sample comes from"),
    ("4.1.1", "openherd.tokenizer.dialog", "chat format: headers, end of turn, images, loss mask"),
    ("4.1.1", "openherd.tokenizer.template", "chat format as a Jinja template"),
    ("4.3.5", "openherd.tokenizer.tools", "tools in the chat format: definitions, calls, system-prompt lines, ipython"),
    ("6", "openherd.inference.engine", "inference engine: continuous batching, K samples, scores, log-probabilities"),
    ("6", "openherd.inference.scheduler", "scheduler: chunked prefill, preemption, prefix sharing"),
    ("6", "openherd.inference.cache", "blocks of the key/value cache, hash chain, reference counts"),
    ("6", "openherd.inference.paged", "paged attention, paged key/value cache, deterministic pieces"),
    ("6", "openherd.inference.sampling", "sampling: temperature, top-k, top-p, min-p, penalties, seeds"),
    ("6", "openherd.inference.constraint", "constrained output: JSON schema, regular expressions"),
    ("6", "openherd.inference.text", "stop strings, streamed text"),
    ("6", "openherd.inference.repack", "packed weights, products of fixed rows"),
    ("6", "openherd.inference.chat", "chat in the terminal"),
    ("6", "openherd.serving.server", "server: OpenAI's endpoints by HTTP, several models, shutdown"),
    ("6", "openherd.serving.protocol", "requests and responses of OpenAI's clients, errors that name the field"),
    ("6", "openherd.serving.worker", "the thread that drives the engines, queue, cancelled requests"),
    ("6", "openherd.serving.answers", "streams, calls of tools, log-probabilities as clients read them"),
    ("6", "openherd.serving.http", "keys, hosts, sizes of requests, headers, clients that leave"),
    ("6", "openherd.serving.metrics", "metrics for Prometheus"),
    ("5.4.7", "openherd.serving.guard", "where a guard judges prompts and answers"),
)


def where(query: str) -> list[tuple[str, str, str]]:
    """(section, module, what) of stages and parts, by paper section ('3.4.2', '3.4') or by words ('annealing').

    Of several words all must fit.
    """
    rows = [(s.section, s.target.replace(":", "."), f"{s.name}: {s.summary}", s.words) for s in STAGES]
    rows += [(section, module, what, "") for section, module, what in PARTS]
    terms = query.lower().replace("_", "-").split()
    return [row[:3] for row in rows if terms and all(_fits(term, row) for term in terms)]


def _fits(term: str, row: tuple[str, str, str, str]) -> bool:
    section, *texts = row
    if term.replace(".", "").isdigit():
        return section == term or section.startswith(term + ".")
    stem = term.removesuffix("ing").removesuffix("s")
    return any(word in " ".join(texts).lower() for word in (term, stem))
