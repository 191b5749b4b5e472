"""The documents of a mix: shares that are realised, epochs that are told, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.conftest import document
from openherd.core.errors import ConfigError
from openherd.data.documents import DROPPED, LANGUAGE_SCHEMA
from openherd.data.mix import MIXES
from openherd.data.mix_documents import Components, MixDocumentsConfig, mix_documents, planned

AVAILABLE = st.dictionaries(st.sampled_from("abcd"), st.integers(1_000, 10**9), min_size=1)


@given(available=AVAILABLE, data=st.data())
def test_what_is_planned_makes_the_shares(available, data):
    shares = {name: data.draw(st.integers(1, 50)) for name in available}
    config = MixDocumentsConfig(mix="given", shares=shares, epochs=data.draw(st.sampled_from([0.5, 1.0, 3.0])))
    plan = planned(config, available)
    seen = {}
    for name, size in available.items():
        kept = plan.keep[name] * size
        epochs = plan.targets[name] * plan.total_bytes / kept
        assert 0 < plan.keep[name] <= 1
        assert 1 - 1e-9 <= epochs <= config.most_epochs + 1e-9
        seen[name] = kept * epochs
    total = sum(seen.values())
    assert {name: n / total for name, n in seen.items()} == pytest.approx(plan.targets)


def rows():
    found = []
    for source, n in (("web", 600), ("code", 100), ("books", 40)):
        found += [document(f"{source} {i:05d} " + "word " * 20, source=source) for i in range(n)]
    return found


def test_a_share_is_realised_by_downsampling_and_by_epochs(documents_run, run_stage, rows_of):
    shares = {"web": 0.5, "code": 0.3, "books": 0.2}
    config = MixDocumentsConfig(mix="given", shares=shares, epochs=2.0)
    run = run_stage(mix_documents, config, documents=documents_run(rows()))
    kept, dropped = rows_of(run), rows_of(run, DROPPED)
    assert len(kept) + len(dropped) == 740
    m = run.metrics
    assert m["source_weights"] == pytest.approx(shares)
    assert m["mean_epochs"]["books"] == pytest.approx(2.0)
    # 40 books, seen twice, are a fifth of all that is seen: 200 of web, and 120 of code, of which there are 100.
    assert sum(row["source"] == "web" for row in kept) == pytest.approx(200, abs=30)
    assert sum(row["source"] == "code" for row in kept) == 100
    assert m["mean_epochs"]["code"] == pytest.approx(1.2, abs=0.02)
    assert m["mean_epochs"]["web"] == pytest.approx(1.0, abs=0.16)
    seen = {name: m["kept_bytes"][name] * m["mean_epochs"][name] for name in shares}
    assert {name: n / sum(seen.values()) for name, n in seen.items()} == pytest.approx(shares)
    assert {row["reason"] for row in dropped} == {"more web than the mix has"}


def test_a_field_is_thinned(documents_run, run_stage, rows_of):
    schema = LANGUAGE_SCHEMA.append(LANGUAGE_SCHEMA.field("source").with_name("domain"))
    found = [{**document(f"text {i}"), "domain": "arts" if i % 2 else "science"} for i in range(400)]
    config = MixDocumentsConfig(mix="given", shares={"web": 1}, field_shares={"arts": 0.25})
    run = run_stage(mix_documents, config, documents=documents_run(found, schema))
    kept = rows_of(run)
    assert sum(row["domain"] == "science" for row in kept) == 200
    assert sum(row["domain"] == "arts" for row in kept) == pytest.approx(50, abs=20)
    assert run.metrics["dropped"].keys() == {"field arts"}


def test_the_papers_mix_is_by_kind_and_language(documents_run, run_stage, rows_of):
    schema = LANGUAGE_SCHEMA.append(LANGUAGE_SCHEMA.field("source").with_name("kind"))
    found = []
    for kind, language, n in (
        ("prose", "en", 300),
        ("reasoning", "en", 100),
        ("reasoning", "de", 20),
        ("code", "en", 80),
        ("prose", "de", 60),
    ):
        found += [{**document(f"{kind} {language} {i:04d}", language=language), "kind": kind} for i in range(n)]
    run = run_stage(mix_documents, MixDocumentsConfig(), documents=documents_run(found, schema))
    assert set(run.metrics["source_weights"]) == set(MIXES["paper"]) == {row["source"] for row in rows_of(run)}
    assert all(row["language"] == "de" for row in rows_of(run) if row["source"] == "multilingual")
    assert all(row["kind"] == row["source"] for row in rows_of(run) if row["source"] in ("code", "reasoning"))


def test_the_tutorials_mix_is_one_setting_away(documents_run, run_stage):
    assert sum(MIXES["tutorial"].values()) == pytest.approx(1) == sum(MIXES["paper"].values())
    found = [document(f"{s} {i}", source=s) for s in ("web", "code", "books", "academic", "wiki") for i in range(50)]
    config = MixDocumentsConfig(mix="tutorial", components={"wikipedia": ("wiki",)}, most_epochs=50)
    run = run_stage(mix_documents, config, documents=documents_run(found))
    assert run.metrics["source_weights"] == MIXES["tutorial"]


def test_as_many_epochs_as_are_allowed():
    config = MixDocumentsConfig(mix="paper", epochs=4.0, most_epochs=4.0)
    assert planned(config, {"general": 79, "reasoning": 66, "code": 15, "multilingual": 41}).keep["code"] == 1


def test_a_field_that_no_document_is_of_is_told(documents_run, run_stage, capsys):
    config = MixDocumentsConfig(mix="given", shares={"web": 1}, field_column="source", field_shares={"bookz": 0.5, "books": 1.0})
    run = run_stage(mix_documents, config, documents=documents_run(rows()))
    assert "mix-documents: field_shares: no document is of 'bookz'; did you mean 'books'" in capsys.readouterr().err
    assert run.metrics["fields_absent"] == ["bookz"]


def test_what_is_missing_or_too_scarce_is_refused(documents_run, run_stage):
    documents = documents_run(rows())
    with pytest.raises(ConfigError, match=r"no column 'kind'; .* run code-reasoning before"):
        run_stage(mix_documents, MixDocumentsConfig(), documents=documents)
    with pytest.raises(ConfigError, match="no document is of 'academic'"):
        run_stage(mix_documents, MixDocumentsConfig(mix="tutorial"), documents=documents)
    config = MixDocumentsConfig(mix="given", shares={"web": 0.1, "books": 0.9}, total_bytes=10**6)
    with pytest.raises(ConfigError, match=r"'books' has .* times; allowed: most_epochs = 4; .* total_bytes = \d+"):
        run_stage(mix_documents, config, documents=documents)
    for wrong in ({"mix": "given"}, {"shares": {"a": 1}}, {"components": {"x": ()}}, {"rest": "x"}, {"field_shares": {"a": 2}}):
        with pytest.raises(ConfigError):
            MixDocumentsConfig(**wrong)


def test_the_rest_goes_to_the_largest_component_or_where_it_is_told():
    config = MixDocumentsConfig(mix="given", shares={"web": 0.6, "books": 0.4}, components={"books": ("novels",)})
    components = Components(config, ["source"])
    assert [components.of({"source": s}) for s in ("novels", "books", "else", None)] == ["books", "books", "web", "web"]
    config = MixDocumentsConfig(mix="given", shares={"web": 0.6, "books": 0.4}, rest="books")
    assert Components(config, ["source"]).of({"source": "else"}) == "books"
