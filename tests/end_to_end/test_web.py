"""The recipe of section 3.1 whole, on a small crawl: from WARC files to shards of the paper's mix, all documents accounted for."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from miniature import ROOT, openherd
from openherd.core.records import read_parquet
from openherd.core.rundir import Run
from openherd.data.documents import DOCUMENTS, DROPPED
from openherd.data.mix import MIXES
from openherd.data.token_shards import TokenShards
from openherd.runner import open_stage, read_run_file
from openherd.tokenizer.tokenizer import Tokenizer
from web_pages import MAIL, UNSAFE, write_crawl

CHANGES = ("tokenizer.merges_base=256", "tokenizer.merges_multilingual=64", "holdout.share=0.1", "engine.processes=1")
# The stages through which a page of the crawl goes, in the recipe's order.
WAY = (
    "sources", "url-filter", "dedup-urls", "extraction", "language", "dedup-documents", "dedup-lines", "heuristics", "quality",
    "language-quotas", "code-reasoning", "pii", "safety-filter", "domain-filter", "domains", "mix-documents",
)  # fmt: skip


@pytest.fixture(scope="module")
def web(tmp_path_factory, shared_data) -> Path:
    """The recipe's run on the shared WARC files and pages made here."""
    folder = tmp_path_factory.mktemp("web")
    write_crawl(shared_data("warc").parent, folder)
    changes = [part for change in CHANGES for part in ("--set", change)]
    done = openherd(folder, "run", str(ROOT / "recipes" / "web.toml"), "--out", "runs/web", *changes)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "web"


def ids(run: Run, name: str = DOCUMENTS) -> Counter[str]:
    return Counter(row["id"] for row in read_parquet(run.file(name), ["id"]))


@pytest.mark.slow
def test_every_document_is_accounted_for(web):
    places = read_run_file(web)
    runs = [Run.open(places[name]) for name in WAY]
    for run in runs[1:]:
        counts = run.metrics
        assert counts["documents_in"] == counts["documents_out"] + sum(found["documents"] for found in counts["dropped"].values())
    for before, after in pairwise(runs):
        assert ids(before) == ids(after) + ids(after, DROPPED), after.path
    assert runs[0].metrics["dropped"]["damaged"]["documents"] == 1  # the cut file of the shared crawl


@pytest.mark.slow
def test_the_shards_hold_the_kept_documents_of_the_papers_mix(web):
    shards, words = TokenShards.open(open_stage(web, "token-shards")), open_stage(web, "tokenizer").file("tokenizer/tokenizer.json")
    tokenizer = Tokenizer.load(words.parent)
    assert set(shards.tokens) == set(MIXES["paper"])
    found = Counter()
    for source, starts in shards.starts.items():
        for start, end in pairwise([*starts.tolist(), shards.tokens[source]]):
            tokens = shards.read(source, start, end)
            assert (tokens[0], tokens[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
            found[source, tokenizer.decode(tokens[1:-1])] += 1
    held_out = open_stage(web, "holdout")
    assert found == Counter((row["source"], row["text"]) for row in read_parquet(held_out.file("train.parquet")))
    kept = ids(open_stage(web, "mix-documents"))
    assert set(ids(held_out, "train.parquet")) <= set(kept)

    mixed = open_stage(web, "mix-documents").metrics
    assert mixed["source_weights"] == MIXES["paper"]
    for name, share in MIXES["paper"].items():
        assert abs(mixed["share_kept"][name] - share) < 0.12, name  # drawn, of some 80 documents
        assert np.isclose(mixed["mean_epochs"][name] * mixed["kept_bytes"][name], share * mixed["total_bytes"])


@pytest.mark.slow
def test_what_must_not_stay_does_not(web):
    texts = [row["text"] for row in read_parquet(open_stage(web, "mix-documents").file(DOCUMENTS))]
    assert not any(MAIL in text for text in texts)
    assert any("<EMAIL>" in text and "<PHONE>" in text for text in texts)
    assert not any(UNSAFE in row["url"] for row in read_parquet(open_stage(web, "safety-filter").file(DOCUMENTS)))
    assert any(UNSAFE in row["url"] for row in read_parquet(open_stage(web, "pii").file(DOCUMENTS)))
    assert open_stage(web, "train-classifier").metrics["labels"] == ["random", "reference"]
