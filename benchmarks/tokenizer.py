"""The tokenizer beside its peers: training 128,000 tokens, and documents to token shards, on the text of installed packages.

Training: our stage, from Parquet to `tokenizer.json`, beside rustbpe, tokenizers and (where installed) bpeasy from the same Parquet
to merges. Encoding: our stage, from Parquet to shards, beside texts in memory encoded by one thread of tiktoken (times the cores),
by as many threads of it as there are cores, and by tokenizers in batches on all cores. What our stage takes for one document is its
start, most of it the check that ranks and merges are the same. Medians; ratios above 1 say that ours is faster.
"""

import importlib.util
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
TRAINING_MB, ENCODING_MB = 55, 110
MERGES = 127_744
REPEATS = 3


def texts_of_packages(most: int) -> list[str]:
    """Sources and documentation of the standard library and the installed packages, each text once, in a fixed order."""
    found: dict[str, None] = {}
    size = 0
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for file in sorted(Path(root).rglob("*")):
            if file.suffix in (".py", ".md", ".rst", ".txt", ".pyi") and file.is_file() and 500 < file.stat().st_size < 2_000_000:
                text = file.read_text(encoding="utf-8", errors="ignore")
                if text not in found:
                    found[text] = None
                    size += len(text.encode())
                if size > most * 1e6:
                    return list(found)
    return list(found)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alone(what: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in GB of one trainer in a process of its own."""
    command = [sys.executable, __file__, what, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    taken, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return taken, peak


def train(what: str, folder: Path) -> None:
    """Train with `what`, and print seconds and peak memory."""
    from openherd.core.records import read_parquet
    from openherd.tokenizer.pattern import SPLIT_PATTERN

    def texts():
        return (row["text"] for row in read_parquet(folder / "documents" / "train.parquet", ["text"]))

    def ours() -> None:
        from openherd.core import rundir
        from openherd.core.rundir import Job, Run
        from openherd.tokenizer.train import TokenizerConfig, tokenizer

        config = TokenizerConfig(merges_base=MERGES, merges_multilingual=0)
        path = Path(tempfile.mkdtemp(dir=folder)) / "run"
        inputs = {"documents": Run.open(folder / "documents")}
        rundir.make(Job("tokenizer", "3.2", 1, {}, {}, {}), path, tokenizer, config, inputs)

    def rustbpe() -> None:
        import rustbpe

        rustbpe.Tokenizer().train_from_iterator(texts(), MERGES + 256, pattern=SPLIT_PATTERN)

    def hugging_face() -> None:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        backend = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=MERGES + 256, initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(texts(), trainer)

    def bpeasy() -> None:
        import bpeasy

        bpeasy.train_bpe(texts(), SPLIT_PATTERN, 64, MERGES + 256)

    taken = seconds({"ours": ours, "rustbpe": rustbpe, "tokenizers": hugging_face, "bpeasy": bpeasy}[what])
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9]))


def main() -> None:
    """Measure everything and print the figures."""
    os.environ["RAYON_NUM_THREADS"] = str(CORES)
    import tiktoken

    from openherd.core import rundir
    from openherd.core.records import ParquetWriter
    from openherd.core.rundir import Job, Run
    from openherd.data.documents import LANGUAGE_SCHEMA
    from openherd.data.token_shards import TokenShardsConfig, token_shards
    from openherd.tokenizer.pattern import SPLIT_PATTERN
    from openherd.tokenizer.tokenizer import Tokenizer

    def write(path: Path, texts: list[str]) -> Run:
        def stage(config: None, *, out: rundir.Output) -> dict[str, int]:
            with out.write("train.parquet") as file, ParquetWriter(file, LANGUAGE_SCHEMA) as writer:
                for i, text in enumerate(texts):
                    writer.write({"id": f"{i:032x}", "language": "en", "source": "packages", "text": text})
            return {}

        return rundir.make(Job("holdout", "3.1.3", 1, {}, {}, {}), path, stage, None, {})[0]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = texts_of_packages(ENCODING_MB)
        reached = list(itertools.accumulate(len(text.encode()) for text in texts))
        training = sum(n < TRAINING_MB * 1e6 for n in reached) + 1
        write(folder / "documents", texts[:training])
        trainers = ["ours", "rustbpe", "tokenizers", *(["bpeasy"] if importlib.util.find_spec("bpeasy") else [])]
        runs = {name: [alone(name, folder) for _ in range(REPEATS)] for name in trainers}
        training_s = {name: statistics.median(s for s, _ in found) for name, found in runs.items()}
        peak_gb = {name: max(gb for _, gb in found) for name, found in runs.items()}

        made = Run.open(next(path.parent for path in folder.glob("*/run/manifest.json")))
        words = Tokenizer.load(made.path / "tokenizer")
        ranks = {token: rank for rank, token in enumerate(words.tokens)}
        raw = tiktoken.Encoding("t", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
        all_of_it, one = write(folder / "all", texts), write(folder / "one", texts[:1])
        numbers = itertools.count()

        def shards(documents: Run) -> None:
            job = Job("token-shards", "3.1.2", 1, {}, {}, {})
            path = folder / f"shards-{next(numbers)}"
            rundir.make(job, path, token_shards, TokenShardsConfig(), {"documents": documents, "tokenizer": made})

        work: dict[str, Callable[[], object]] = {
            "shards": lambda: shards(all_of_it),
            "shards_of_one_document": lambda: shards(one),
            "tiktoken_one_thread": lambda: [raw.encode_ordinary(text) for text in texts],
            "tiktoken_all_threads": lambda: raw.encode_ordinary_batch(texts, num_threads=CORES),
            "tokenizers_batch": lambda: words.encode_batch(texts),
        }
        rounds = [{name: seconds(f) for name, f in work.items()} for _ in range(REPEATS)]

        def ratio(peer: str, times: int = 1, less: float = 0.0) -> float:
            return statistics.median(r[peer] / times / (r["shards"] - less * r["shards_of_one_document"]) for r in rounds)

        figures = {
            "cores": CORES,
            "training_mb": round(reached[training - 1] / 1e6, 1),
            "training_tokens_learned": MERGES + 256,
            "training_s": training_s,
            "training_peak_gb": peak_gb,
            "training_over_fastest_peer": min(s for name, s in training_s.items() if name != "ours") / training_s["ours"],
            "encoding_mb": round(reached[-1] / 1e6, 1),
            "encoding_s": {name: statistics.median(r[name] for r in rounds) for name in work},
            "shards_over_tiktoken_times_cores": ratio("tiktoken_one_thread", CORES),
            "shards_less_start_over_tiktoken_times_cores": ratio("tiktoken_one_thread", CORES, 1.0),
            "shards_less_start_over_tiktoken_all_threads": ratio("tiktoken_all_threads", 1, 1.0),
            "shards_over_tokenizers_batch": ratio("tokenizers_batch"),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
