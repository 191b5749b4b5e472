"""Fields of knowledge: the likeliest field of each document, and shares by hand."""

import numpy as np
import pytest

from data.conftest import document
from openherd.core.errors import ConfigError
from openherd.core.rundir import Outside
from openherd.data.calibration import Calibration
from openherd.data.domains import DomainsConfig, domains, shares
from openherd.data.linear_model import LinearModel
from openherd.data.ngram_features import NgramConfig, features

NGRAMS = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=14)


def classifier(folder, labels):
    columns = 1 if len(labels) == 2 else len(labels)
    weights = np.zeros((1 << 14, columns), np.float32)
    for i, label in enumerate(labels):
        weights[features([label], NGRAMS)[0], i if columns > 1 else 0] = 9.0 if columns > 1 or i else -9.0
    LinearModel(labels, NGRAMS, weights, np.zeros(columns), Calibration()).save(folder)
    return Outside(str(folder))


@pytest.mark.parametrize("labels", [("arts", "science"), ("arts", "law", "science")])
def test_each_document_gets_its_field(documents_run, run_stage, rows_of, tmp_path, labels):
    texts = ["arts of the herd", "science of it", "science once more", "nothing"]
    documents = documents_run([document(text, language="de" if i == 2 else "en") for i, text in enumerate(texts)])
    run = run_stage(domains, DomainsConfig(min_score=0.6), documents=documents, classifier=classifier(tmp_path / "m", labels))
    rows = rows_of(run)
    assert [row["domain"] for row in rows] == ["arts", "science", "science", "other"]
    assert all(row["domain_score"] > 0.6 for row in rows[:3])
    assert run.metrics["documents_by_language"] == {"de": {"science": 1}, "en": {"arts": 1, "science": 1, "other": 1}}
    assert run.metrics["shares"]["science"]["documents"] == 2


def test_a_column_of_the_documents_own_is_refused():
    with pytest.raises(ConfigError, match="domains: column = 'text', which every document has; give another name"):
        DomainsConfig(column="text")


def test_shares_by_hand():
    found = shares({"a": [1, 300], "b": [3, 100]})
    assert list(found) == ["a", "b"]
    assert found["a"] == {"documents": 1, "bytes": 300, "document_share": 0.25, "byte_share": 0.75}
