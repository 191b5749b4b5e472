"""Known-illegal content leaves nothing but its id; unsafe domains and scores drop with their reason."""

import contextlib
import hashlib
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Output, Outside
from openherd.data.address_lists import Builder
from openherd.data.documents import DROPPED, LANGUAGE_SCHEMA, MEASURES, PAGE_SCHEMA
from openherd.data.safety_filter import SafetyFilterConfig, SafetyRules, digests_of, plain_text, safety_filter

SECRET = "zq7 the content that nobody may keep zq7"


def sha256(content):
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def row(i, text, url="https://fine.test/x"):
    lineage = {"id": f"{i:032x}", "url": url, "date": "2026-01-01T00:00:00Z", "source": "web", "file": "a.warc", "offset": i}
    return {**lineage, "title": f"title {i}", "text": text, "language": "en", "language_score": 1.0}


def page(i, content, url="https://fine.test/x"):
    return {name: value for name, value in row(i, "", url).items() if name in PAGE_SCHEMA.names} | {
        "content_type": "",
        "content": content,
    }


def all_that_is_stored(folder):
    """Every value and every byte in the files of a folder, hidden ones too; Parquet's pages and statistics are opened."""
    stored = []
    for place, _, names in os.walk(folder):
        for name in names:
            file = os.path.join(place, name)
            with open(file, "rb") as opened:
                stored.append(opened.read())
            with contextlib.suppress(Exception):
                parquet = pq.ParquetFile(file)
                stored.append(repr(parquet.read().to_pylist()).encode())
                groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
                stored.append(repr([group.to_dict() for group in groups]).encode())
    return b"\n".join(stored)


@pytest.mark.parametrize("spelling", [SECRET, f"  {SECRET.upper()}\n\n", SECRET.replace(" ", "\u00a0 ")])
def test_nothing_of_illegal_text_is_left_but_its_id(documents_run, run_stage, rows_of, tmp_path, spelling):
    listed = tmp_path / "illegal.txt"
    listed.write_text(f"# digests\n{sha256(plain_text(SECRET))}\n", encoding="utf-8")
    given = documents_run([row(1, "fine"), row(2, spelling, "https://secret-place.test/q"), row(3, "fine too")])
    made = run_stage(safety_filter, SafetyFilterConfig(), documents=given, illegal=Outside(str(listed)))
    assert [r["text"] for r in rows_of(made)] == ["fine", "fine too"]
    (dropped,) = rows_of(made, DROPPED)
    assert {name: value for name, value in dropped.items() if value not in (None, "")} == {
        "id": f"{2:032x}", "stage": "safety-filter", "reason": "illegal content",
    }  # fmt: skip
    stored = all_that_is_stored(made.path)
    assert f"{2:032x}".encode() in stored
    assert b"fine too" in stored
    for trace in (b"zq7", b"secret-place", b"title 2", b"ZQ7"):
        assert trace not in stored


def test_nothing_is_left_where_the_stage_fails_or_is_killed_after_it(documents_run, tmp_path, monkeypatch):
    given = documents_run([row(1, "fine"), row(2, SECRET, "https://secret-place.test/q"), *(row(i, "fine") for i in range(3, 200))])
    (tmp_path / "out").mkdir()
    seen = []

    def killed(self, *arguments):
        seen.append(all_that_is_stored(tmp_path / "out"))  # what lies there, temporary files too, while the stage works
        raise KeyboardInterrupt

    monkeypatch.setattr("openherd.core.progress.Progress.advance", killed)
    with pytest.raises(KeyboardInterrupt):
        safety_filter(SafetyFilterConfig(illegal_sha256=(sha256(SECRET),)), documents=given, out=Output(tmp_path / "out"))
    assert len(seen) == 1
    for stored in (seen[0], all_that_is_stored(tmp_path / "out")):
        assert b"zq7" not in stored
        assert b"secret-place" not in stored


def test_illegal_pages_are_known_by_their_bytes(documents_run, run_stage, rows_of):
    pages = [page(1, b"\xff\x00 bad"), page(2, b"fine")]
    config = SafetyFilterConfig(illegal_sha256=(sha256(b"\xff\x00 bad").upper(),))
    made = run_stage(safety_filter, config, documents=documents_run(pages, PAGE_SCHEMA))
    assert [r["content"] for r in rows_of(made)] == [b"fine"]
    assert b"bad" not in all_that_is_stored(made.path)
    assert [r["harmful"] for r in rows_of(made, MEASURES)] == [True, False]


def test_digests_and_plain_text():
    assert plain_text(" Ｆull  WIDTH\tText\n") == "full width text"
    assert digests_of({"text": "A b"}) == {sha256("A b"), sha256("a b")}
    assert digests_of({"content": b"x", "text": None}) == {sha256(b"x")}


def test_unsafe_domains_by_category(documents_run, run_stage, rows_of, tmp_path):
    for category, domain in (("phishing", "bank-login.test"), ("games", "play.test")):
        (tmp_path / "lists" / category).mkdir(parents=True)
        (tmp_path / "lists" / category / "domains").write_text(f"{domain}\n", encoding="utf-8")
    rows = [row(1, "a", "http://www.bank-login.test/x"), row(2, "b", "http://play.test/"), row(3, "c")]
    config = SafetyFilterConfig(categories=("phishing",))
    made = run_stage(safety_filter, config, documents=documents_run(rows), domains=Outside(str(tmp_path / "lists")))
    assert [(r["reason"], r["detail"], r["text"]) for r in rows_of(made, DROPPED)] == [
        ("unsafe domain", "bank-login.test, phishing", "a")
    ]
    assert [r["domain"] for r in rows_of(made, MEASURES)] == ["bank-login.test", "play.test", "fine.test"]


class ByWord:
    """A classifier of one word; it keeps what it was asked."""

    def __init__(self, word):
        self.word, self.asked = word, []

    def __call__(self, texts):
        self.asked += texts
        return np.array([0.95 if self.word in text else 0.2 for text in texts])


def judged(rows, config=None, scorers=None, schema=LANGUAGE_SCHEMA):
    import pyarrow as pa

    batch = pa.RecordBatch.from_pylist([{name: r.get(name) for name in schema.names} for r in rows], schema=schema)
    return SafetyRules(config or SafetyFilterConfig(), {sha256(SECRET)}, Builder().build(), scorers or {}).judge(batch)


def test_scores_over_a_threshold_drop_and_the_illegal_is_shown_to_no_classifier():
    scorers = {"toxicity": ByWord("rude"), "adult": ByWord("nude")}
    rows = [row(1, "rude"), row(2, "nude"), row(3, "fine"), row(4, SECRET)]
    made = judged(rows, scorers=scorers)
    assert [drop and (drop.reason, drop.detail) for drop in made.drops] == [
        ("toxicity", "0.950, limit 0.9"),
        ("adult", "0.950, limit 0.9"),
        None,
        ("illegal content", ""),
    ]
    assert scorers["toxicity"].asked == ["rude", "nude", "fine"]
    measures = made.measures.to_pylist()
    assert [m["harmful"] for m in measures] == [True, True, False, True]
    assert [m["toxicity"] for m in measures] == [pytest.approx(0.95), pytest.approx(0.2), pytest.approx(0.2), None]
    report = judged(rows, SafetyFilterConfig(mode="report"), scorers)
    assert [drop and drop.reason for drop in report.drops] == [None, None, None, "illegal content"]
    assert [m["harmful"] for m in report.measures.to_pylist()] == [True, True, False, True]
    assert [drop and drop.reason for drop in judged(rows, SafetyFilterConfig(toxicity_threshold=0.99), scorers).drops][:2] == [
        None,
        "adult",
    ]


def test_long_texts_are_read_in_part_and_pages_not_at_all():
    scorer = ByWord("rude")
    judged([row(1, "x" * 500)], SafetyFilterConfig(max_characters=100), {"toxicity": scorer})
    assert scorer.asked == ["x" * 100]
    assert judged([page(1, b"x")], scorers={"toxicity": scorer}, schema=PAGE_SCHEMA).drops == [None]


def test_what_cannot_be_used_is_refused(documents_run, run_stage):
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        run_stage(safety_filter, SafetyFilterConfig(illegal_sha256=("ab",)), documents=documents_run(["a"]))
    with pytest.raises(ConfigError, match="nothing to filter by"):
        run_stage(safety_filter, SafetyFilterConfig(), documents=documents_run(["a"]))


def test_a_trained_classifier_is_asked_for_its_label(documents_run, run_stage, rows_of, tmp_path):
    classifier = pytest.importorskip("openherd.data.classifier")
    from openherd.data.calibration import Calibration
    from openherd.data.linear_model import LinearModel
    from openherd.data.ngram_features import NgramConfig, features

    ngrams = NgramConfig(bucket_bits=12)
    weights = np.zeros((1 << ngrams.bucket_bits, 1), np.float32)
    weights[features(["rude"], ngrams)[0]] = 4.0
    LinearModel(("fine", "toxic"), ngrams, weights, np.array([-5.0]), Calibration()).save(tmp_path / "model")
    assert classifier.load(tmp_path / "model").labels == ("fine", "toxic")
    given = documents_run([row(1, "rude"), row(2, "a quiet day by the sea")])
    for label, left in (("", "a quiet day by the sea"), ("toxic", "a quiet day by the sea"), ("fine", "rude")):
        config = SafetyFilterConfig(toxicity_label=label)
        made = run_stage(safety_filter, config, documents=given, toxicity=Outside(str(tmp_path / "model")))
        assert [r["text"] for r in rows_of(made)] == [left]
    with pytest.raises(InputError, match="no label 'rude'"):
        run_stage(
            safety_filter, SafetyFilterConfig(toxicity_label="rude"), documents=given, toxicity=Outside(str(tmp_path / "model"))
        )
