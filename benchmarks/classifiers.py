"""Classifiers on real texts: toxicity, fields of knowledge, code, reasoning; the linear one beside fastText on the same folds.

The sets lie in ../shared/data, and pages are the documentation that is installed here (Rust's books, /usr/share/doc). Code and
reasoning are trained on some sources and measured on others, so that no source's habits are learned. fastText runs in a Python of
its own that has fasttext-numpy2-wheel, whose path is in FASTTEXT_PYTHON; without it there are no figures of the peer. Speeds are
texts per second of CPU time in one thread, of the better of two passes, and of fastText's with its own Python interface.
"""

import csv
import gzip
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
PEER = os.environ.get("FASTTEXT_PYTHON", "")
MOST_PAGES = 150
MOST_CHARACTERS = 8_000  # of a page
GROUPS = {
    "stem": "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics high_school_biology "
    "high_school_chemistry "
    "high_school_computer_science high_school_mathematics high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law "
    "jurisprudence logical_fallacies moral_disputes philosophy prehistory professional_law world_religions",
    "social": "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics "
    "high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations security_studies "
    "sociology us_foreign_policy",
    "medicine": "anatomy clinical_knowledge college_medicine human_aging medical_genetics nutrition professional_medicine virology",
    "business": "business_ethics management marketing professional_accounting",
}

PEER_PROGRAM = """
import fasttext, json, sys, time
job = json.load(open(sys.argv[1]))
found = []
for fold in job["folds"]:
    with open(sys.argv[1] + ".txt", "w") as file:
        for text, label in zip(fold["texts"], fold["labels"]):
            file.write("__label__" + label + " " + text + "\\n")
    t = time.process_time()
    model = fasttext.train_supervised(sys.argv[1] + ".txt", thread=1, verbose=0, **job["settings"])
    trained = time.process_time() - t
    best = 1e9
    for _ in range(2):
        t = time.process_time()
        names, values = model.predict(fold["test"], k=-1)
        best = min(best, time.process_time() - t)
    rows = [{n[9:]: float(v) for n, v in zip(a, b)} for a, b in zip(names, values)]
    found.append({"scores": rows, "train_s": trained, "predict_s": best})
json.dump(found, open(sys.argv[1] + ".out", "w"))
"""
PEER_SETTINGS = (  # what was tried; the best by its own score is reported
    {"epoch": 25, "wordNgrams": 2, "dim": 50, "lr": 0.5},
    {"epoch": 50, "wordNgrams": 1, "minn": 2, "maxn": 5, "dim": 50, "lr": 0.5},
    {"epoch": 25, "wordNgrams": 2, "minn": 3, "maxn": 5, "dim": 50, "lr": 0.5},
)


def jsonl(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def subjects(names):
    rows = []
    for name in names:
        with (DATA / "mmlu" / "test" / f"{name}_test.csv").open(newline="") as file:
            rows += [" ".join(row[:5]) for row in list(csv.reader(file))[1:]]
    return rows


def paragraphs(texts, n):
    return ["\n".join(texts[i : i + n]) for i in range(0, len(texts) - n + 1, n)]


def pages(folder, has_code, most=MOST_PAGES):
    """Texts of installed manuals' pages: with at least a tenth of the text in <pre>, or without any."""
    from resiliparse.extract.html2text import extract_plain_text

    found = []
    files = sorted(f for f in folder.rglob("*.html") if f.is_file()) if folder.is_dir() else []
    random.Random(0).shuffle(files)
    for file in files:
        page = file.read_text(encoding="utf-8", errors="replace")
        blocks = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL | re.IGNORECASE)
        text = extract_plain_text(page, main_content=True, alt_texts=True, preserve_formatting=True)
        inside = sum(len(re.sub(r"<[^>]*>", "", block)) for block in blocks)
        if len(text) > 400 and (inside > 0.1 * len(text) if has_code else not blocks and "<code" not in page):
            found.append(text[:MOST_CHARACTERS])
            if len(found) == most:
                break
    return found


def readmes(has_code, most=300):
    """Markdown and reStructuredText of installed packages: a tenth of the lines indented or fenced, or none."""
    found = []
    for root in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), "/usr/share/doc"):
        for file in sorted(f for f in Path(root).rglob("*") if f.suffix in (".md", ".rst") and f.is_file()):
            text = file.read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.split("\n") if line.strip()]
            code = sum(line.startswith(("    ", "\t")) for line in lines) + 4 * text.count("```")
            if len(text) > 400 and (code > 0.1 * len(lines) if has_code else not code and "`" not in text):
                found.append(re.sub("(?m)^```.*\n", "", text)[:MOST_CHARACTERS])
    random.Random(0).shuffle(found)
    return found[:most]


def sources(most=200):
    """Beginnings of modules of the standard library, without their first lines."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [file.read_text(encoding="utf-8", errors="replace")[1500:4500] for file in files][:most]


def train(texts, labels, config=None, seed=0):
    """A model of ours on these texts; a tenth calibrates."""
    import numpy as np

    from openherd.classifiers.linear import LinearTraining, fit, hashed
    from openherd.data.calibration import fit_calibration
    from openherd.data.linear_model import LinearModel, sums
    from openherd.data.ngram_features import NgramConfig

    config = config or NgramConfig()
    names = tuple(sorted(set(labels)))
    y = np.array([names.index(label) for label in labels])
    order = np.random.default_rng(seed).permutation(len(y))
    watched, training = order[: len(y) // 10], order[len(y) // 10 :]
    with tempfile.TemporaryDirectory() as folder, hashed(texts, config, Path(folder) / "f") as data:
        weights, bias = fit(data, y, len(names), 1 << config.bucket_bits, training, watched, LinearTraining(), seed)
        calibration = fit_calibration("temperature", sums(weights, bias, data.batch(watched)), y[watched])
    return LinearModel(names, config, weights, bias, calibration)


def timed(work):
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def peer(folds):
    """fastText on the same folds, by settings."""
    if not PEER:
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for settings in PEER_SETTINGS:
            job, program = Path(folder) / "job", Path(folder) / "peer.py"
            program.write_text(PEER_PROGRAM)
            clean = [{**f, "texts": [words(t) for t in f["texts"]], "test": [words(t) for t in f["test"]]} for f in folds]
            job.write_text(json.dumps({"folds": clean, "settings": settings}))
            subprocess.run([PEER, str(program), str(job)], check=True, stdout=sys.stderr)
            found[json.dumps(settings)] = json.loads(Path(f"{job}.out").read_text())
    return found


def words(text):
    """As fastText is usually given texts: one line, lower case, signs apart."""
    return re.sub(r"([^\w\s])", r" \1 ", text.lower()).replace("\n", " ")


def compared(texts, labels, n_tested=5):
    """Ours and fastText on `n_tested` of five folds, each trained on the other four: AUC or accuracy, and speed."""
    import numpy as np

    from openherd.classifiers.measures import auc, binary

    names = sorted(set(labels))
    fold = np.random.default_rng(0).permutation(len(texts)) % 5
    folds = [
        {
            "texts": [t for t, f in zip(texts, fold, strict=True) if f != k],
            "labels": [label for label, f in zip(labels, fold, strict=True) if f != k],
            "test": [t for t, f in zip(texts, fold, strict=True) if f == k],
        }
        for k in range(n_tested)
    ]
    y = np.array([names.index(label) for label in labels])
    tested = fold < n_tested
    scores = np.zeros((len(texts), len(names)))
    train_s = predict_s = 0.0
    for k, part in enumerate(folds):
        model, seconds = timed(lambda part=part: train(part["texts"], part["labels"]))
        train_s += seconds
        found, first = timed(lambda part=part, model=model: model.score(part["test"]))
        found, second = timed(lambda part=part, model=model: model.score(part["test"]))
        predict_s += min(first, second)
        scores[fold == k] = found if found.ndim > 1 else np.stack([1 - found, found], axis=1)

    def measured(scores):
        if len(names) == 2:
            return {"auc": auc(scores[tested, 1], y[tested] == 1), "accuracy": float((scores.argmax(1) == y)[tested].mean())}
        return {"accuracy": float((scores.argmax(1) == y)[tested].mean())}

    n, mb = int(tested.sum()), sum(len(t.encode()) for t, is_tested in zip(texts, tested, strict=True) if is_tested) / 1e6
    ours = {**measured(scores), "train_cpu_s": train_s, "texts_per_cpu_s": n / predict_s, "mb_per_cpu_s": mb / predict_s}
    theirs = []
    for settings, rows in peer(folds).items():
        table = np.zeros_like(scores)
        for k, of_fold in enumerate(rows):
            table[fold == k] = [[row.get(name, 0.0) for name in names] for row in of_fold["scores"]]
        seconds = sum(row["predict_s"] for row in rows)
        speed = {
            "train_cpu_s": sum(row["train_s"] for row in rows),
            "texts_per_cpu_s": n / seconds,
            "mb_per_cpu_s": mb / seconds,
        }
        theirs.append({**measured(table), **speed, "settings": json.loads(settings)})
    best = max(theirs, key=lambda row: row.get("auc", row["accuracy"]), default=None)
    figures = {"texts": len(texts), "labels": len(names), "ours": ours, "fasttext": best, "fasttext_tried": theirs}
    if len(names) == 2:
        whole = binary(scores[tested, 1], y[tested] == 1, (0.5, 0.7, 0.8, 0.9, 0.95))
        figures |= {key: whole[key] for key in ("auc", "calibration_error", "log_loss_nats", "thresholds")}
    return figures


def toxicity():
    with (DATA / "surge_toxicity" / "toxicity_en.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return compared([row["text"] for row in rows], ["toxic" if row["is_toxic"] == "Toxic" else "clean" for row in rows])


def knowledge():
    texts, labels = [], []
    for group, names in GROUPS.items():
        found = subjects(names.split())
        texts += found
        labels += [group] * len(found)
    return compared(texts, labels, 1)


def kinds():
    """Code and reasoning, trained on some sources and measured on others; the rule, the classifier and both."""
    import numpy as np

    from openherd.classifiers.measures import auc
    from openherd.data.code_reasoning import code_prior, combined, reasoning_prior

    rust = next(iter(sorted(Path.home().glob(".rustup/toolchains/*/share/doc/rust/html"))), Path("none"))
    books = [
        rust / name for name in ("book", "reference", "cargo", "rustc", "nomicon", "rust-by-example", "embedded-book", "rustdoc")
    ]
    humanities, others = subjects(GROUPS["humanities"].split()), subjects((GROUPS["social"] + " " + GROUPS["business"]).split())
    sentences = (DATA / "lingua_langid" / "en.txt").read_text().splitlines()
    plays = (DATA / "tinyshakespeare" / "input.txt").read_text().split("\n\n")
    gsm = [f"{row['question']}\n{re.sub('<<.*?>>', '', row['answer'])}" for row in jsonl(DATA / "gsm8k" / "train.jsonl")]
    gsm_test = [f"{row['question']}\n{re.sub('<<.*?>>', '', row['answer'])}" for row in jsonl(DATA / "gsm8k" / "test.jsonl")]
    aqua = [f"{row['question']}\n{row['rationale']}" for row in jsonl(DATA / "aqua" / "dev.json")]
    math = [f"{row['problem']}\n{row['solution']}" for row in jsonl(DATA / "math" / "math_test_5000.jsonl")]
    programs = [f"{row['prompt']}{row['canonical_solution']}" for row in jsonl(DATA / "humaneval" / "HumanEval.jsonl.gz")]
    basic = [f"{row['prompt']}{row['canonical_solution'] or ''}" for row in jsonl(DATA / "mbpp" / "mbpp_release_v1.jsonl")]
    debian = Path("/usr/share/doc")
    sets = {
        "train": {
            "code": [*(page for book in books for page in pages(book, True)), *readmes(True), *sources()],
            "reasoning": [*gsm[:600], *aqua],
            "prose": [
                *(page for book in books for page in pages(book, False)),
                *readmes(False),
                *humanities[:600],
                *paragraphs(plays, 6)[:300],
            ],
        },
        "test": {
            "humaneval": programs,
            "mbpp": basic,
            "manual pages with code": pages(debian, True),
            "math": math,
            "manual pages without code": pages(debian, False),
            "questions of social science": others[:1500],
            "news": paragraphs(sentences, 5),
        },
    }
    for part, of in sets.items():
        print(part, {name: len(found) for name, found in of.items()}, file=sys.stderr)
    code_sets, reasoning_sets = ("humaneval", "mbpp", "manual pages with code"), ("math",)
    figures = {"texts": {part: {name: len(found) for name, found in of.items()} for part, of in sets.items()}}
    for kind, wanted, prior in (("code", code_sets, code_prior), ("reasoning", reasoning_sets, reasoning_prior)):
        texts = [t for found in sets["train"].values() for t in found]
        labels = ["b" if name == kind else "a" for name, found in sets["train"].items() for _ in found]
        model, seconds = timed(lambda texts=texts, labels=labels: train(texts, labels))
        tests = {name: found for name, found in sets["test"].items() if kind == "code" or name not in code_sets}
        flat = [t for found in tests.values() for t in found]
        of = [name for name, found in tests.items() for _ in found]
        positive = np.array([name in wanted for name in of])
        rule, rule_s = timed(lambda flat=flat, prior=prior: np.array([prior(t) for t in flat]))
        learned, learned_s = timed(lambda flat=flat, model=model: model.score(flat))
        both = combined(learned, rule, 0.5)
        results = {
            "train_cpu_s": seconds,
            "rule_texts_per_cpu_s": len(flat) / rule_s,
            "model_texts_per_cpu_s": len(flat) / learned_s,
        }
        for name, scores in (("rule", rule), ("model", learned), ("both", both)):
            by_set = {s: float((scores[[o == s for o in of]] >= 0.5).mean()) for s in tests if tests[s]}
            results[name] = {
                "auc": auc(scores, positive),
                "accuracy_at_half": float(((scores >= 0.5) == positive).mean()),
                "share_called_positive": by_set,
            }
        if kind == "reasoning":
            results["gsm8k_test_called_positive"] = float((model.score(gsm_test) >= 0.5).mean())
        figures[kind] = results
    return figures


def main() -> None:
    """Measure and print the figures."""
    parts = {"toxicity": toxicity, "knowledge": knowledge, "kinds": kinds}
    asked = sys.argv[1:] or list(parts)
    print(json.dumps({name: parts[name]() for name in asked}))


if __name__ == "__main__":
    main()
