"""Personal data: recall and precision on presidio's synthetic set, documents a CPU-second, beside presidio's pattern recognizers.

Quality is on ../shared/data/presidio_pii (750 of its 1,500 sentences, made from 209 templates), by halves of the templates: "even"
ones were looked at while the patterns were written, "odd" ones were not; the tagger of names is trained on neither. A span counts
as met where any of its characters lies in a span of its kind; strictly, where both ends are right. Names are scored as the stage
reports them, that is after overlaps with addresses and e-mail are resolved, and alone.

Speed is on real articles (the texts of ../shared/data/article_extraction), a sentence of the set added to every third. presidio
runs where `.venv-presidio` has presidio-analyzer 2.2: its recognizers of the six kinds with a form, without a language model.
"""

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
PEER = ROOT / ".venv-presidio" / "bin" / "python"
KINDS = {
    "PHONE_NUMBER": "phone", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "EMAIL_ADDRESS": "email", "IP_ADDRESS": "ip",
    "US_SSN": "national_id", "STREET_ADDRESS": "address", "PERSON": "name",
}  # fmt: skip
REPEATS = 5
Spans = list[tuple[int, int, str]]

PEER_PROGRAM = """
import json, sys, time
from presidio_analyzer import predefined_recognizers as p
given = json.load(sys.stdin)
kinds = p.EmailRecognizer, p.PhoneRecognizer, p.IpRecognizer, p.CreditCardRecognizer, p.IbanRecognizer, p.UsSsnRecognizer
recognizers = [kind() for kind in kinds]
def find(text):
    return [(r.start, r.end, r.entity_type) for one in recognizers for r in one.analyze(text, one.supported_entities, None)]
find(given["articles"][0])
times = []
for _ in range(given["repeats"]):
    began = time.process_time()
    for text in given["articles"]:
        find(text)
    times.append(time.process_time() - began)
json.dump({"seconds": min(times), "spans": [find(text) for text in given["sentences"]]}, sys.stdout)
"""


def rows() -> list[dict[str, Any]]:
    """The set, with the spans of the kinds that are looked for."""
    found = json.loads((DATA / "presidio_pii" / "synth_dataset_v2.json").read_text(encoding="utf-8"))
    return [
        {
            "text": row["full_text"],
            "half": "odd" if row["template_id"] % 2 else "even",
            "spans": [
                (s["start_position"], s["end_position"], KINDS[s["entity_type"]]) for s in row["spans"] if s["entity_type"] in KINDS
            ],
        }
        for row in found
    ]


def articles(sentences: list[str]) -> list[str]:
    """Real texts, a sentence of the set at the end of every third."""
    truth = json.loads((DATA / "article_extraction" / "ground-truth.json").read_text(encoding="utf-8"))
    texts = [page["articleBody"] for _, page in sorted(truth.items())]
    return [f"{text}\n{sentences[i % len(sentences)]}" if i % 3 == 0 else text for i, text in enumerate(texts)]


def quality(given: list[dict[str, Any]], found: list[Spans]) -> dict[str, dict[str, Any]]:
    """Recall and precision by kind and half, by shared characters and strictly."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * 5)  # given, met, found, right, strictly right
    for row, spans in zip(given, found, strict=True):
        for half in (row["half"], "all"):
            for start, end, kind in row["spans"]:
                own = counts[kind, half]
                own[0] += 1
                own[1] += any(k == kind and s < end and start < e for s, e, k in spans)
                own[4] += (start, end, kind) in spans
            for start, end, kind in spans:
                own = counts[kind, half]
                own[2] += 1
                own[3] += any(k == kind and s < end and start < e for s, e, k in row["spans"])
    made: dict[str, dict[str, Any]] = defaultdict(dict)
    for (kind, half), (n, met, n_found, right, strict) in sorted(counts.items()):
        if n:
            made[kind][half] = {
                "spans": n,
                "recall": round(met / n, 3),
                "precision": round(right / n_found, 3) if n_found else None,
                "strict_recall": round(strict / n, 3),
                "strict_precision": round(strict / n_found, 3) if n_found else None,
            }
    return dict(made)


def fastest(work: Callable[[str], Any], texts: Iterable[str]) -> float:
    """CPU seconds of the fastest of a few rounds."""
    from openherd.data.pii_patterns import exists_in, is_possible

    texts, times = list(texts), []
    for text in texts[:5]:
        work(text)
    for _ in range(REPEATS):
        exists_in.cache_clear()
        is_possible.cache_clear()
        began = time.process_time()
        for text in texts:
            work(text)
        times.append(time.process_time() - began)
    return min(times)


EMAIL_OR_IP = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+|(?:\d{1,3}\.){3}\d{1,3}")
PHONE = re.compile(r"\+?\d[\d ().-]{7,}\d")


def prefilter(text: str) -> int:
    """What a pipeline does at the least: a regular expression for e-mail and IP, one for telephone numbers that exist."""
    import phonenumbers

    n = len(EMAIL_OR_IP.findall(text))
    for match in PHONE.finditer(text):
        try:
            n += phonenumbers.is_valid_number(phonenumbers.parse(match[0], "US"))
        except phonenumbers.NumberParseException:
            continue
    return n


def main() -> None:
    from openherd.data.name_tagger import NameTagger
    from openherd.data.pii import KINDS as OURS
    from openherd.data.pii import PiiConfig, find, judge_texts

    given = rows()
    sentences = [row["text"] for row in given]
    texts = articles(sentences)
    tagger = NameTagger.load()
    off = dict.fromkeys(OURS, "off")
    everything = PiiConfig(name="report")
    found = [[tuple(span[:3]) for span in find(text, everything, tagger)] for text in sentences]
    alone = [[(start, end, "name") for start, end in tagger.find(text)] for text in sentences]
    result: dict[str, Any] = {"quality": quality(given, found), "names_alone": quality(given, alone)["name"]}
    ways: dict[str, Callable[[str], Any]] = {
        "default": lambda text: judge_texts([text], PiiConfig()),
        "with a form": lambda text: find(text, PiiConfig(address="off")),
        "everything, names too": lambda text: find(text, everything, tagger),
        "prefilter": prefilter,
        **{kind: lambda text, kind=kind: find(text, PiiConfig(**{**off, kind: "report"}), tagger) for kind in OURS},
    }
    n_bytes = sum(len(text.encode()) for text in texts)
    seconds = {way: fastest(work, texts) for way, work in ways.items()}
    result["documents"], result["mean_bytes"] = len(texts), round(n_bytes / len(texts))
    result["documents_per_cpu_s"] = {way: round(len(texts) / s) for way, s in seconds.items()}
    result["megabytes_per_cpu_s"] = {way: round(n_bytes / 1e6 / s, 2) for way, s in seconds.items()}
    if PEER.exists():
        request = json.dumps({"articles": texts, "sentences": sentences, "repeats": REPEATS})
        done = subprocess.run([str(PEER), "-c", PEER_PROGRAM], input=request, capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        spans = [[(start, end, KINDS[kind]) for start, end, kind in one if kind in KINDS] for one in answer["spans"]]
        result["presidio"] = {
            "documents_per_cpu_s": round(len(texts) / answer["seconds"]),
            "megabytes_per_cpu_s": round(n_bytes / 1e6 / answer["seconds"], 2),
            "quality": quality(given, spans),
        }
        result["speed_over_presidio"] = {way: round(answer["seconds"] / seconds[way], 1) for way in ("default", "with a form")}
    else:
        print(f"no {PEER}: presidio is left out", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
