"""A model with new tokens: its old rows and logits, transformers' view of it, and what is refused."""

from dataclasses import replace

import pytest
import torch

from openherd.core import rundir
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Job, Run
from openherd.data.documents import TEXT_SCHEMA
from openherd.interchange.extension import ExtendTokenizerConfig, extend_tokenizer
from openherd.model.config import ModelConfig
from openherd.model.weights import load_model
from openherd.tokenizer.tokenizer import Tokenizer
from tiny import tiny_model, write_tiny

SHAPE = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, head_width=8, d_feed_forward=24, max_positions=64)
CONFIG = ExtendTokenizerConfig(new_tokens=20, least_count=3, sources=("law",), device="cpu", check_bytes=300)
LAW = ["The plaintiff shall indemnify the defendant; the defendant shall not indemnify anyone. " * 4] * 2
CASES = [(0, False, torch.float32), (7, True, torch.bfloat16), (40, False, torch.float32)]
WEB = ["zzqq zzqq zzqq zzqq", "nothing of interest"]


def finished(path, stage, config=None, **inputs) -> Run:
    return rundir.make(Job("test", "0", 1, {}, {}, {}), path, stage, config, inputs)[0]


@pytest.fixture
def documents(tmp_path):
    lineage = {"url": "", "date": "", "file": "", "offset": 0, "title": ""}

    def stage(config, *, out):
        for name in ("train.parquet", "heldout.parquet"):
            with out.write(name) as path, ParquetWriter(path, TEXT_SCHEMA) as writer:
                for i, (source, text) in enumerate([("law", t) for t in LAW] + [("web", t) for t in WEB]):
                    writer.write({**lineage, "id": f"{i:032x}", "source": source, "text": text})
        return {}

    return finished(tmp_path / "documents", stage)


@pytest.fixture
def base(tmp_path, tokenizer_directory):
    """A function that makes the run of a model, as `import` leaves it, with some rows more than tokens."""

    def make(padding=0, tied=False, dtype=torch.float32):
        tokenizer = Tokenizer.load(tokenizer_directory)
        shape = replace(SHAPE, vocabulary=tokenizer.vocabulary + padding, tied_embeddings=tied)
        return finished(tmp_path / "base", lambda _, *, out: write_tiny(tiny_model(shape).to(dtype), tokenizer, out) or {})

    return make


def both(base, run):
    places = [r.file("model/config.json").parent for r in (base, run)]
    return [load_model(place) for place in places], [Tokenizer.load(place) for place in places]


@pytest.mark.parametrize(("padding", "tied", "dtype"), CASES)
def test_old_rows_stay_and_new_ones_are_means(base, documents, tmp_path, padding, tied, dtype):
    before = base(padding, tied, dtype)
    run = finished(tmp_path / "run", extend_tokenizer, CONFIG, base=before, documents=documents)
    (old, new), (words, longer) = both(before, run)
    n = words.vocabulary
    assert longer.vocabulary == n + 20
    assert new.config == replace(old.config, vocabulary=max(n + 20, n + padding))
    assert (new.head.weight is new.embed.weight) == tied
    grown = {"embed.weight", "head.weight"}
    for (name, a), (_, b) in zip(old.named_parameters(), new.named_parameters(), strict=True):
        assert a.dtype == b.dtype == dtype
        assert torch.equal(a[:n], b[:n]) if name in grown else torch.equal(a, b)
    for table, longer_table in ((old.embed.weight, new.embed.weight), (old.head.weight, new.head.weight)):
        assert torch.equal(longer_table[n + 20 :], table[n + 20 :]), "rows that no token uses yet"
        for i in range(n, n + 20):
            parts = words.encode_piece(longer.decode_bytes([i]))
            assert len(parts) > 1
            mean = sum(table[p].float() for p in parts) / len(parts)
            assert torch.allclose(longer_table[i].float(), mean, atol=1e-6, rtol=1e-6 if dtype == torch.float32 else 2**-8)


def test_logits_of_old_tokens_stay(base, documents, tmp_path):
    before = base()
    run = finished(tmp_path / "run", extend_tokenizer, CONFIG, base=before, documents=documents)
    (old, new), (words, _) = both(before, run)
    tokens = torch.tensor([[words.bos_id, *words.encode("def make(shape): return tokenizer.vocabulary")]])
    with torch.no_grad():
        found = new(tokens)[..., : words.vocabulary]
        assert torch.allclose(found, old(tokens), atol=1e-6)
    assert run.metrics["new_tokens"] == 20
    assert run.metrics["bytes_per_token_after"] > 1.3 * run.metrics["bytes_per_token_before"]
    assert run.metrics["bits_per_byte_before"]["n"] == run.metrics["bits_per_byte_after"]["n"] == 1  # 300 bytes of the first


def test_it_learns_from_the_sources_asked_for(base, documents, tmp_path):
    before = base()
    run = finished(tmp_path / "run", extend_tokenizer, CONFIG, base=before, documents=documents)
    config = replace(CONFIG, sources=("web",), check_bytes=0)
    web = finished(tmp_path / "web", extend_tokenizer, config, base=before, documents=documents)
    law, other = (Tokenizer.load(r.file("tokenizer/tokenizer.json").parent) for r in (run, web))
    assert len(law.encode("indemnify")) < len(other.encode("indemnify"))
    assert len(other.encode("zzqq")) < len(law.encode("zzqq"))
    assert "bits_per_byte_before" not in web.metrics


def test_the_mean_of_all(base, documents, tmp_path):
    before = base()
    config = replace(CONFIG, initial="all", check_bytes=0)
    run = finished(tmp_path / "run", extend_tokenizer, config, base=before, documents=documents)
    (old, new), (words, _) = both(before, run)
    assert torch.allclose(new.embed.weight[words.vocabulary :], old.embed.weight.mean(0).expand(20, -1), atol=1e-6)


def test_transformers_loads_it(base, documents, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = base()
    run = finished(tmp_path / "run", extend_tokenizer, CONFIG, base=before, documents=documents)
    place = run.file("model/config.json").parent
    assert (place / "tokenizer.json").read_bytes() == run.file("tokenizer/tokenizer.json").read_bytes()
    ids = AutoTokenizer.from_pretrained(place)(LAW[0])["input_ids"]
    ours = Tokenizer.load(place)
    assert ids == [ours.bos_id, *ours.encode(LAW[0])]
    assert max(ids) >= Tokenizer.load(before.file("model/config.json").parent).vocabulary
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)(torch.tensor([ids[:40]])).logits
        assert torch.allclose(theirs, load_model(place)(torch.tensor([ids[:40]])), atol=1e-4)


def test_what_is_refused(base, documents, tmp_path):
    before = base()
    with pytest.raises(ConfigError, match="no source 'laws'; allowed: law, web"):
        finished(tmp_path / "a", extend_tokenizer, replace(CONFIG, sources=("laws",)), base=before, documents=documents)
    with pytest.raises(InputError, match="no new token stands 5000 times in it; lower least_count"):
        finished(tmp_path / "b", extend_tokenizer, replace(CONFIG, least_count=5000), base=before, documents=documents)
