"""Quality filtering: what each way of deciding keeps, against the scores themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.conftest import document
from openherd.core.errors import ConfigError
from openherd.core.rundir import Outside
from openherd.core.seeds import uniform
from openherd.data.calibration import Calibration
from openherd.data.documents import DROPPED
from openherd.data.linear_model import LinearModel
from openherd.data.ngram_features import NgramConfig, features
from openherd.data.quality import QualityConfig, judge, keep_probability, least_scores, quality

NGRAMS = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=16)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Outside:
    """Scores a text by how much of it is the word 'good'."""
    folder = tmp_path_factory.mktemp("quality") / "model"
    weights = np.zeros((1 << 16, 1), np.float32)
    weights[features(["good"], NGRAMS)[0]] = 8.0
    LinearModel(("bad", "good"), NGRAMS, weights, np.array([-3.0]), Calibration()).save(folder)
    return Outside(str(folder))


ROWS = [
    document("good " + " ".join(f"w{j}" for j in range(i % 12)), language="de" if i % 3 else "en", id=f"{i:032x}")
    for i in range(90)
]


def test_a_threshold_and_the_score_that_stays(documents_run, run_stage, rows_of, classifier):
    run = run_stage(quality, QualityConfig(threshold=0.5), documents=documents_run(ROWS), classifier=classifier)
    kept, dropped = rows_of(run), rows_of(run, DROPPED)
    assert {row["id"] for row in kept} | {row["id"] for row in dropped} == {row["id"] for row in ROWS}
    assert kept
    assert min(row["score"] for row in kept) >= 0.5 > max(row["score"] for row in dropped)
    assert sum(run.metrics["score_histogram"]) == 90
    assert run.metrics["label"] == "good"


def test_the_best_share_of_each_language(documents_run, run_stage, rows_of, classifier):
    run = run_stage(quality, QualityConfig(mode="top", top_share=0.25), documents=documents_run(ROWS), classifier=classifier)
    kept, dropped = rows_of(run), rows_of(run, DROPPED)
    for language, n in (("en", 30), ("de", 60)):
        own = sorted((row["score"] for row in [*kept, *dropped] if row["language"] == language), reverse=True)
        assert len(own) == n
        least = own[round(0.25 * n) - 1]
        assert {row["id"] for row in kept if row["language"] == language} == {
            row["id"] for row in [*kept, *dropped] if row["language"] == language and row["score"] >= least
        }
        assert run.metrics["least_score_by_language"][language] == pytest.approx(least)


@pytest.mark.parametrize("mode", ["soft", "pareto"])
def test_a_share_of_what_scores_little_stays(mode):
    config = QualityConfig(mode=mode, threshold=0.6, power=2.0, alpha=9.0)
    for score in (0.0, 0.2, 0.5, 0.6, 0.9, 1.0):
        kept = sum(judge(config, f"{i}", score) is None for i in range(3000)) / 3000
        assert kept == pytest.approx(keep_probability(config, score), abs=0.03)
    assert keep_probability(config, 1.0) == 1.0


@given(score=st.floats(0, 1), id_=st.text(max_size=5), seed=st.integers(0, 9))
def test_what_is_drawn_depends_on_seed_and_id_alone(score, id_, seed):
    config = QualityConfig(mode="soft", threshold=0.7, seed=seed)
    assert (judge(config, id_, score) is None) == (uniform(seed, "quality", id_) < keep_probability(config, score))


@given(
    scores=st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.75]), min_size=1, max_size=30).map(lambda v: np.array(v, np.float32)),
    share=st.floats(0.01, 1),
)
def test_the_least_score_keeps_the_share_and_what_is_equal_to_it(scores, share):
    least = least_scores({"en": scores}, share)["en"]
    n = max(round(share * len(scores)), 1)
    assert (scores >= least).sum() >= n
    assert (scores > least).sum() < n


def test_a_column_that_is_there_is_not_overwritten(documents_run, run_stage, classifier):
    config = QualityConfig(score_column="language_score")
    with pytest.raises(ConfigError, match="give another score_column"):
        run_stage(quality, config, documents=documents_run(ROWS), classifier=classifier)
