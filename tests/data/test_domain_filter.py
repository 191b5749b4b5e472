"""Domains dropped by what the corpus shows of them, beside sums in a dictionary."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.documents import DROPPED
from openherd.data.domain_filter import DENIED, DOMAINS, DomainFilterConfig, domain_filter, sums
from openherd.data.pii import KINDS, PiiConfig, pii
from openherd.data.pii import measures_schema as personal_schema
from openherd.data.safety_filter import SafetyFilterConfig, safety_filter
from openherd.data.safety_filter import measures_schema as safety_schema
from openherd.data.tables import connect

EMAILS = " ".join(f"u{i}@example.org" for i in range(5))


def row(i, text, url):
    lineage = {"id": f"{i:032x}", "url": url, "date": "", "source": "web", "file": "a.warc", "offset": i}
    return {**lineage, "title": "", "text": text, "language": "en", "language_score": 1.0}


def test_domains_with_much_personal_data_or_much_harm_go(documents_run, run_stage, rows_of, tmp_path):
    listed = tmp_path / "phishing.txt"
    listed.write_text("||trap.bad.test^\n", encoding="utf-8")
    urls = [
        "https://people.co.uk/1",
        "https://a.people.co.uk/2",
        "https://ann.github.io/",
        "https://bob.github.io/",
        "https://bob.github.io/2",
    ]
    texts = [EMAILS, EMAILS, EMAILS, "fine", "fine"]
    rows = [row(i, text, url) for i, (text, url) in enumerate(zip(texts, urls, strict=True))]
    rows += [row(10, "x", "https://trap.bad.test/"), row(11, "x", "https://bad.test/"), row(12, "no address", "")]
    safe = run_stage(safety_filter, SafetyFilterConfig(), documents=documents_run(rows), domains=Outside(str(listed)))
    counted = run_stage(pii, PiiConfig(), documents=safe)
    made = run_stage(domain_filter, DomainFilterConfig(min_documents=2), documents=counted, counted=(safe, counted))
    assert [r["url"] for r in rows_of(made)] == [*urls[2:], ""]
    assert [(r["url"], r["reason"], r["detail"]) for r in rows_of(made, DROPPED)] == [
        (urls[0], "domain: personal data", "people.co.uk: 2 of 2 documents"),
        (urls[1], "domain: personal data", "people.co.uk: 2 of 2 documents"),
        ("https://bad.test/", "domain: harmful", "bad.test: 1 of 2 documents"),
    ]
    assert made.file(DENIED).read_text(encoding="utf-8") == "bad.test\npeople.co.uk\n"
    table = {r["domain"]: r for r in rows_of(made, DOMAINS)}
    assert (table["people.co.uk"]["email"], table["people.co.uk"]["dropped"]) == (10, "personal data")
    assert (table["ann.github.io"]["personal_documents"], table["ann.github.io"]["dropped"]) == (1, "")
    assert made.metrics["domains_dropped"] == 2


def test_a_share_is_told_of_the_documents_that_were_counted(documents_run, run_stage, rows_of):
    rows = [row(i, EMAILS if i < 2 else "fine", f"https://a.test/{i}") for i in range(8)]
    listed = run_stage(safety_filter, SafetyFilterConfig(illegal_sha256=("0" * 64,)), documents=documents_run(rows))
    counted = run_stage(pii, PiiConfig(), documents=documents_run(rows[:3]))
    config = DomainFilterConfig(min_documents=3)
    made = run_stage(domain_filter, config, documents=documents_run(rows[:1]), counted=(listed, counted))
    assert [r["detail"] for r in rows_of(made, DROPPED)] == ["a.test: 2 of 3 documents"]


CASES = st.lists(st.tuples(st.sampled_from(["a.test", "b.test", "c.co.uk", ""]), st.integers(0, 3), st.booleans()), max_size=15)
SHARES = st.sampled_from([0.0, 0.34, 0.5, 1.0])


@settings(max_examples=10)
@given(CASES, st.integers(1, 3), st.integers(1, 4), SHARES, SHARES)
def test_as_sums_in_a_dictionary(tmp_path_factory, cases, min_findings, min_documents, share, harm):
    folder = tmp_path_factory.mktemp("sums")
    rows = [
        {"id": str(i), "domain": domain, "characters": 10, **dict.fromkeys(KINDS, 0), "email": n}
        for i, (domain, n, _) in enumerate(cases)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=personal_schema()), folder / "personal.parquet")
    judged = [{"id": str(i), "domain": domain, "harmful": is_harmful} for i, (domain, _, is_harmful) in enumerate(cases)]
    pq.write_table(pa.Table.from_pylist(judged, schema=safety_schema()), folder / "safety.parquet")
    config = DomainFilterConfig(
        min_findings=min_findings, min_documents=min_documents, max_personal_share=share, max_harmful_share=harm
    )
    with connect(folder, 0.2, 1) as database:
        sums(config, [str(folder / "personal.parquet")], [str(folder / "safety.parquet")], database)
        columns = "domain, documents, personal_documents, harmful_documents, email, dropped"
        found = {row[0]: row[1:] for row in database.execute(f"SELECT {columns} FROM sums").fetchall()}
    expected = {}
    for domain in {domain for domain, _, _ in cases} - {""}:
        own = [(n, is_harmful) for name, n, is_harmful in cases if name == domain]
        much, bad = sum(n >= min_findings for n, _ in own), sum(is_harmful for _, is_harmful in own)
        is_judged = len(own) >= min_documents
        reason = (
            "personal data" if is_judged and much > share * len(own) else "harmful" if is_judged and bad > harm * len(own) else ""
        )
        expected[domain] = len(own), much, bad, sum(n for n, _ in own), reason
    assert found == expected


def test_a_run_that_counts_nothing_is_refused(documents_run, run_stage):
    given_run = documents_run(["a"])
    for counted in ((), (given_run,)):
        with pytest.raises(InputError, match="counts nothing"):
            run_stage(domain_filter, DomainFilterConfig(), documents=given_run, counted=counted)
