"""Clusters: planted ones are found, and the classifier that is written says which centre is nearest."""

import numpy as np
import pytest

from openherd.classifiers.clusters import (
    ClusterDocumentsConfig,
    Weighted,
    as_classifier,
    cluster_documents,
    inverse_frequencies,
    nearest,
    outstanding,
    spherical_k_means,
)
from openherd.classifiers.linear import hashed
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import read_jsonl
from openherd.data.domains import DomainsConfig, domains
from openherd.data.ngram_features import NgramConfig

TOPICS = {
    "sheep": "shepherd fold wool lamb meadow flock grazing".split(),  # noqa: SIM905
    "ships": "harbour sail captain anchor deck voyage mast".split(),  # noqa: SIM905
    "bread": "flour oven yeast dough crust baker loaf".split(),  # noqa: SIM905
}
NGRAMS = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=12)


def texts(n=40, seed=0):
    draw = np.random.default_rng(seed)
    found = []
    for i in range(n * len(TOPICS)):
        topic = list(TOPICS)[i % len(TOPICS)]
        found.append((topic, " ".join([*draw.choice(TOPICS[topic], 4), *draw.choice(["the", "and", "of", "day", "one"], 4)])))
    return found


def agreement(which, topics):
    """The share of texts whose cluster is mostly of their topic."""
    most = {c: max(set(of := [t for w, t in zip(which, topics, strict=True) if w == c]), key=of.count) for c in set(which)}
    return sum(most[w] == t for w, t in zip(which, topics, strict=True)) / len(topics), len(set(most.values()))


def test_planted_topics_are_found_named_and_told_apart(documents_run, run_stage, rows_of):
    found = texts()
    documents = documents_run([text for _, text in found])
    config = ClusterDocumentsConfig(clusters=3, min_documents=2)
    run = run_stage(cluster_documents, config, documents=documents)
    for row in read_jsonl(run.file("clusters.jsonl")):
        assert any(set(row["words"][:3]) <= set(words) for words in TOPICS.values())
    judged = run_stage(domains, DomainsConfig(), documents=documents, classifier=run)
    rows = rows_of(judged)
    assert agreement([row["domain"] for row in rows], [topic for topic, _ in found]) == (1.0, 3)
    assert sum(of["document_share"] for of in judged.metrics["shares"].values()) == pytest.approx(1)
    assert {of["documents"] for of in judged.metrics["shares"].values()} == {40}
    # As many as when they were made.
    assert sorted(run.metrics["documents_by_cluster"].values()) == [40, 40, 40]


def test_the_classifier_is_the_nearest_centre(tmp_path):
    found = [text for _, text in texts()]
    with hashed(found, NGRAMS, tmp_path / "f") as data:
        weighted = Weighted(data, inverse_frequencies(data, 1 << 12, 0.5, 2))
        centres, which, cosine = spherical_k_means(weighted, 4, 1 << 12, 10, 0.0, 1)
        again, _, _ = nearest(weighted, centres)
        norms = [float((values**2).sum()) for _, values in map(weighted.of, range(len(data)))]
    assert np.array_equal(which, again)
    assert norms == pytest.approx(np.ones(len(found)), abs=1e-4)
    assert 0 < cosine <= 1 + 1e-6
    made = as_classifier([f"{i}" for i in range(4)], NGRAMS, centres, weighted.weight)
    assert np.array_equal(made.score(found).argmax(axis=1), which)
    two = as_classifier(["0", "1"], NGRAMS, centres[:, :2], weighted.weight)
    assert np.array_equal(two.score(found) > 0.5, made.logits(found)[:, 1] > made.logits(found)[:, 0])


def test_no_cluster_is_empty_and_the_same_seed_gives_the_same(documents_run, run_stage):
    documents = documents_run([text for _, text in texts(6)])
    config = ClusterDocumentsConfig(clusters=9, min_documents=1, names={"0": "first"})
    runs = [run_stage(cluster_documents, config, documents=documents) for _ in range(2)]
    assert runs[0].metrics == runs[1].metrics
    assert "first" in runs[0].metrics["documents_by_cluster"]
    assert min(runs[0].metrics["documents_by_cluster"].values()) > 0


def test_words_that_stand_out():
    words = outstanding(["a sheep day", "two sheep day", "a ship day", "one ship day"], np.array([0, 0, 1, 1]), 2)
    assert [of[0] for of in words] == ["sheep", "ship"]


def test_what_cannot_be_is_refused(documents_run, run_stage):
    with pytest.raises(ConfigError, match="names: '3'; allowed: '0' to '2'"):
        ClusterDocumentsConfig(clusters=3, names={"3": "x"})
    with pytest.raises(InputError, match="2 documents; allowed: at least clusters = 3"):
        run_stage(cluster_documents, ClusterDocumentsConfig(clusters=3), documents=documents_run(["a", "b"]))
