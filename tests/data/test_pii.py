"""The stage `pii`: nothing personal is left where it must go, and nothing else is lost."""

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.config import load_config
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import read_parquet
from openherd.data.documents import DROPPED, LANGUAGE_SCHEMA, MEASURES, PAGE_SCHEMA
from openherd.data.pii import (
    KINDS,
    PLACEHOLDERS,
    PiiConfig,
    Span,
    domain_of,
    find,
    judge_texts,
    pii,
    prepare_pii,
    redact,
    resolve,
)

EMAIL, CARD, IBAN, PHONE = "ann@example.org", "4111 1111 1111 1111", "GB82 WEST 1234 5698 7654 32", "+1 212-555-0123"
SECRETS = {"email": EMAIL, "card": CARD, "iban": IBAN, "phone": PHONE, "ip": "8.8.8.8", "national_id": "219-09-9998"}


def test_placeholders_stand_for_what_was_found():
    text = f"Write {EMAIL}, pay {CARD} or {IBAN}, call {PHONE}, from 8.8.8.8; SSN 219-09-9998. Lives at 12 Long Lane."
    (left,), drop, counts = judge_texts([text], PiiConfig())
    assert drop is None
    assert left == "Write <EMAIL>, pay <CARD> or <IBAN>, call <PHONE>, from <IP>; SSN <NATIONAL_ID>. Lives at 12 Long Lane."
    assert counts == dict.fromkeys((*SECRETS, "address"), 1)
    (left,), _, _ = judge_texts([f"{EMAIL}"], PiiConfig(placeholders={"email": "[mail]"}))
    assert left == "[mail]"


def test_names_are_looked_for_only_where_asked():
    from openherd.data.name_tagger import NameTagger

    text = f"Contact: Maria Schmidt, {EMAIL}"
    assert [span.kind for span in find(text, PiiConfig(name="replace"), NameTagger.load())] == ["name", "email"]
    assert [span.kind for span in find(text, PiiConfig(), NameTagger.load())] == ["email"]


SPANS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from(KINDS)).map(lambda t: Span(t[0], t[0] + t[1], t[2])),
    max_size=12,
)


@given(SPANS, st.randoms(use_true_random=False))
def test_overlaps_are_resolved_alike_in_any_order(spans, random):
    kept = resolve(spans)
    assert resolve(random.sample(spans, len(spans))) == kept
    assert set(kept) <= set(spans)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    # The slow twin: a span stays unless one that is believed before it, and itself stays, overlaps it.
    order = sorted(set(spans), key=lambda s: (KINDS.index(s.kind), s.start - s.end, s.start, s.what))
    slow = []
    for span in order:
        if not any(span.start < other.end and other.start < span.end for other in slow):
            slow.append(span)
    assert kept == sorted(slow)


@given(st.text(max_size=40), SPANS)
def test_redaction_loses_nothing_else(text, spans):
    spans = resolve(span for span in spans if span.end <= len(text))
    marks = dict.fromkeys(KINDS, "\0")
    parts = redact(text, spans, marks).split("\0") if "\0" not in text else None
    if parts:
        rebuilt = parts[0] + "".join(text[s.start : s.end] + part for s, part in zip(spans, parts[1:], strict=True))
        assert rebuilt == text


PIECES = st.lists(
    st.one_of(st.sampled_from(sorted(SECRETS)), st.sampled_from(["some words. ", "\n", "— and then ", "12 pages, "])), max_size=8
)


@given(PIECES)
def test_no_secret_is_left(pieces):
    text = "".join(f" see {SECRETS[piece]}; " if piece in SECRETS else piece for piece in pieces)
    (left,), _, counts = judge_texts([text], PiiConfig())
    for kind, secret in SECRETS.items():
        assert secret not in left
        assert counts[kind] == pieces.count(kind) == left.count(PLACEHOLDERS[kind])


def row(i, text, url="https://www.a.example.co.uk/x", title=""):
    lineage = {"id": f"{i:032x}", "url": url, "date": "", "source": "web", "file": "a.warc", "offset": i}
    return {**lineage, "title": title, "text": text, "language": "en", "language_score": 1.0}


def test_documents_are_changed_dropped_and_counted(documents_run, run_stage, rows_of):
    rows = [row(1, "nothing here"), row(2, f"write {EMAIL}", title=f"by {EMAIL}"), row(3, f"card {CARD}, {EMAIL}", "", EMAIL)]
    made = run_stage(pii, PiiConfig(card="drop"), documents=documents_run(rows))
    kept, dropped = rows_of(made), rows_of(made, DROPPED)
    assert [(r["title"], r["text"]) for r in kept] == [("", "nothing here"), ("by <EMAIL>", "write <EMAIL>")]
    assert [(r["title"], r["text"], r["reason"], r["detail"]) for r in dropped] == [
        ("<EMAIL>", "card <CARD>, <EMAIL>", "personal data", "card 1")
    ]
    measures = list(read_parquet(made.file(MEASURES)))
    assert [(r["id"][-1], r["domain"], r["email"], r["card"]) for r in measures] == [
        ("1", "example.co.uk", 0, 0),
        ("2", "example.co.uk", 2, 0),
        ("3", "", 2, 1),
    ]
    assert made.metrics["found"]["email"] == 4
    assert made.metrics["documents_with"]["email"] == 2
    assert made.metrics["dropped"]["personal data"]["documents"] == 1


@pytest.mark.parametrize(("mode", "text"), [("redact", "card <CARD>"), ("keep", f"card {CARD}"), ("none", None)])
def test_the_copy_of_a_dropped_document(documents_run, run_stage, rows_of, mode, text):
    made = run_stage(pii, PiiConfig(card="drop", dropped_text=mode), documents=documents_run([row(1, f"card {CARD}")]))
    (dropped,) = rows_of(made, DROPPED)
    assert dropped["text"] == text
    if mode != "keep":
        assert all(CARD not in str(r) for name in ("documents.parquet", DROPPED, MEASURES) for r in rows_of(made, name))
    if mode == "none":
        assert {k: v for k, v in dropped.items() if v not in (None, "", "card 1")} == {
            "id": f"{1:032x}", "stage": "pii", "reason": "personal data",
        }  # fmt: skip
        assert [r["domain"] for r in rows_of(made, MEASURES)] == [""]


def test_a_document_goes_from_the_number_that_is_asked():
    config = PiiConfig(email="drop", drop_at=2)
    assert judge_texts([EMAIL], config)[1] is None
    assert judge_texts([EMAIL, EMAIL], config)[1].detail == "email 2"
    off = PiiConfig(**dict.fromkeys(KINDS, "off"))
    assert judge_texts([f"{EMAIL} {CARD}"], off) == ([f"{EMAIL} {CARD}"], None, {})


def test_a_batch_keeps_its_other_columns_and_pages_without_rows_tell_the_schema():
    schema = pa.schema([*LANGUAGE_SCHEMA, ("score", pa.float32())])
    batch = pa.RecordBatch.from_pylist([{**row(1, EMAIL), "score": 0.5}], schema=schema)
    judged = prepare_pii(PiiConfig())(batch)
    assert judged.batch.schema == schema
    assert judged.batch.to_pylist()[0] == {**batch.to_pylist()[0], "text": "<EMAIL>"}
    assert prepare_pii(PiiConfig())(batch.slice(0, 0)).batch.schema == schema


def test_what_is_only_reported_hides_nothing_that_goes():
    text = "Send it to 12 Maria Schmidt Street, please."
    from openherd.data.name_tagger import NameTagger

    class Maria(NameTagger):
        def find(self, text, threshold=0.5):
            yield text.index("Maria"), text.index("Maria") + 13

    tagger = Maria(*vars(NameTagger.load()).values())
    assert [span.kind for span in find(text, PiiConfig(name="report"), tagger)] == ["address"]
    (left,), drop, counts = judge_texts([text], PiiConfig(name="replace"), tagger)
    assert (left, drop, counts) == ("Send it to 12 <NAME> Street, please.", None, {"address": 1})
    assert judge_texts([text], PiiConfig(name="drop"), tagger)[1].detail == "name 1"


def test_pages_are_refused(documents_run, run_stage):
    page = {**row(1, ""), "content_type": "", "content": b"x"}
    with pytest.raises(InputError, match="pages without text"):
        run_stage(pii, PiiConfig(), documents=documents_run([page], PAGE_SCHEMA))


def test_an_unknown_state_is_refused():
    with pytest.raises(ConfigError, match="phone_regions: no state 'germany'; allowed: ISO codes in capitals"):
        PiiConfig(phone_regions=("DE", "germany"))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="no kind 'mail'"):
        load_config(PiiConfig, {"placeholders": {"mail": "x"}}, "test")


def test_domains_of_addresses():
    assert domain_of("https://www.example.co.uk/x") == "example.co.uk"
    assert domain_of("row 7") == domain_of(None) == domain_of("") == ""
