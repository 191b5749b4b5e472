"""The report: made from run directories alone, whatever runs there are and whatever they hold."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from openherd.core.rundir import Output, Run
from openherd.data.redacted_report import report
from openherd.report.curation import bytes_per_token, dropped_samples, exact_tokens, excerpt, holds_text, parts
from openherd.report.page import ReportConfig, pieces
from openherd.report.scores import example_answers, verdict
from openherd.report.training import curves
from openherd.runner import single_stage
from report.conftest import made as made_run
from report.conftest import write_dropped

SECTIONS = ["stages", "curation", "tokenizer", "training", "scores", "samples", "lineage"]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


class Page(HTMLParser):
    """What a browser would make of a page: elements, text that is shown, figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.text = ""
        self.figures: list[dict] = []
        self.attributes: set[str] = set()
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes |= values.keys()
        self._in = "figure" if values.get("type") == "application/json" else tag
        if tag == "section":
            self.sections.append(values["id"])

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "figure":
            self.figures.append(json.loads(data))
        elif self._in not in ("script", "style"):
            self.text += data


def made(runs: tuple[Run, ...], folder: Path, **settings) -> tuple[Page, dict, bytes]:
    """The page about these runs, its metrics, and its bytes."""
    folder.mkdir(parents=True)
    metrics = report(ReportConfig(**settings), runs=runs, out=Output(folder))
    content = (folder / "report.html").read_bytes()
    return Page(content.decode()), metrics, content


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    return made(runs, tmp_path_factory.mktemp("whole") / "report", title=f"A title {HOSTILE}")


def of(runs, *stages):
    return tuple(run for run in runs if run.manifest["stage"] in stages)


def test_a_whole_run(whole, runs):
    page, metrics, content = whole
    assert page.sections == SECTIONS
    assert metrics == {"runs": 10, "sections": 7, "bytes": len(content)}
    assert len(page.figures) == 8
    for run in runs:
        assert run.digest[:12] in page.text
        assert f"{run.manifest['stage']}/{run.digest[:12]}" in page.text
    for shown in ("It is a toy", "2.1 million", "Python 3.", "Witten-Bell", "deadbeef" * 8, "1.800", "What is entry 39?"):
        assert shown in page.text


def test_data_never_becomes_markup(whole):
    page, _, _ = whole
    assert "img" not in page.tags
    assert page.tags.count("script") == len(page.figures) + 2
    assert not any(name.startswith("on") for name in page.attributes)
    for place in ("A title ", "https://example.org/", "Text 0 ", "The module ", "What is entry 0? ", "Entry 0 "):
        assert place + HOSTILE in page.text


@pytest.mark.parametrize(
    ("stages", "sections"),
    [
        ((), ["stages", "lineage"]),
        (("url-filter",), ["stages", "curation", "lineage"]),
        (("token-shards",), ["stages", "tokenizer", "lineage"]),
        (("long-context",), ["stages", "training", "lineage"]),
        (("sft",), ["stages", "training", "lineage"]),
        (("evaluate-text",), ["stages", "scores", "samples", "lineage"]),
        (("evaluate-answers",), ["stages", "scores", "lineage"]),
    ],
)
def test_a_part_of_a_run(runs, tmp_path, stages, sections):
    page, _, _ = made(of(runs, *stages), tmp_path / "report")
    assert page.sections == sections
    assert ("toy" in page.text) == ("long-context" in stages)


def test_the_same_runs_give_the_same_page(whole, runs, tmp_path):
    assert made(runs, tmp_path / "elsewhere" / "report", title=f"A title {HOSTILE}")[2] == whole[2]


def test_the_stage_by_its_name(runs, tmp_path):
    run, before = single_stage("report", {"dropped_samples": 1}, {"runs": [str(run.path) for run in runs]}, tmp_path / "report")
    assert not before
    assert Page(run.file("report.html").read_text(encoding="utf-8")).sections == SECTIONS


def test_parts_of_the_funnel_add_up():
    metrics = {"bytes_in": 100, "bytes_out": 60, "dropped": {"a": {"documents": 1, "bytes": 10}, "b": {"documents": 2, "bytes": 5}}}
    assert parts(metrics, "bytes") == {"kept": 60, "dropped": 15, "trimmed from kept": 25}
    metrics = {"documents_in": 10, "documents_out": 7, "dropped": metrics["dropped"]}
    assert parts(metrics, "documents") == {"kept": 7, "dropped": 3, "trimmed from kept": 0}


def test_tokens_are_estimated_before_the_tokenizer_and_exact_behind_it(whole, runs):
    assert bytes_per_token(runs) == (2.75, "as tokenizer measured")
    assert bytes_per_token(of(runs, "heuristics"))[0] == 4.0
    assert exact_tokens(runs) == {"token-shards": 123_456}
    assert [holds_text(run) for run in of(runs, "url-filter", "heuristics")] == [False, True]
    assert "1,818,182" in whole[0].text  # 5,000,000 bytes
    assert "123,456" in whole[0].text


def cut(text, characters):
    return text[:characters]


def test_dropped_samples(runs):
    pages, documents = of(runs, "url-filter", "heuristics")
    found = dropped_samples(documents, 3, 40, cut)
    assert [len(found[reason]) for reason in ("repeats lines", "too short", HOSTILE)] == [3, 1, 1]
    assert found["too short"] == [("https://example.org/9", f"Text 9 {HOSTILE}"[:40], "share 9")]
    assert dropped_samples(pages, 3, 160, cut)["illegal"] == [("b" * 32, None, "")]
    assert dropped_samples(documents, 0, 40, cut) == {}


def test_personal_data_in_dropped_documents_is_replaced(tmp_path):
    email = "ann@mail.example.org"
    rows = [
        {
            "id": "a" * 32,
            "url": f"https://example.org/?by={email}",
            "reason": "failed: ValueError",
            "detail": f"no {email}",
            "content": f"Write to {email} \x1b[31m, or {email}".encode(),
        }
    ]
    counts = {"documents_in": 1, "documents_out": 0, "bytes_in": 9, "bytes_out": 0}
    metrics = {**counts, "dropped": {"failed: ValueError": {"documents": 1, "bytes": 9}}}
    run = made_run(tmp_path, "extraction", metrics, write_dropped(pa.binary(), rows))
    for characters in (15, 25, 160):  # some cut the address
        page, _, content = made((run,), tmp_path / f"report{characters}", sample_characters=characters)
        assert page.text.count("<EMAIL>") >= 3
        assert not any(part in page.text for part in ("ann@", "mail.example"))
        assert b"\x1b" not in content


def test_what_was_dropped_without_content_stays_away(whole):
    assert "content not kept" in whole[0].text


def test_excerpt_of_a_page_is_its_text():
    assert excerpt({"content": b"<html><b>A &lt;b&gt;</b>\n\n c" + b"." * 500}, 9) == "A <b> c.."
    assert excerpt({"text": "a\n b" + "c" * 300}, 5) == "a bcc"
    assert excerpt({"text": None}, 5) is None
    assert excerpt({"content": None}, 5) is None


def test_phases_follow_the_run_that_they_went_on_from(runs):
    pretrain, long_context, anneal = curves(of(runs, "pretrain", "long-context", "anneal"))
    assert pretrain.tokens[0] == 2_048
    assert long_context.tokens[0] == pretrain.tokens[-1] + 2_048
    assert anneal.tokens[0] == long_context.tokens[-1] + 2_048
    assert anneal.tokens[-1] == sum(run.metrics["tokens"] for run in of(runs, "pretrain", "long-context", "anneal"))
    assert curves(of(runs, "anneal"))[0].tokens[0] == 2_048


def test_verdict(runs):
    (run,) = of(runs, "evaluate-text")
    assert verdict(run) == (
        "The best model is anneal with 1.800 bits per byte: 0.050 under token trigram's 1.850, 0.270 under xz, primed's 2.070, "
        "0.810 under xz alone's 2.610. Document by document it is -0.050 from the trigram model, 95% interval -0.080 to -0.020."
    )
    assert verdict(of(runs, "evaluate-answers")[0]) is None


def test_example_answers_are_of_each_set():
    answers = [{"set": name, "question": i} for name in ("a", "b") for i in range(10)]
    chosen = example_answers(answers, 6)
    assert [(a["set"], a["question"]) for a in chosen] == [("a", 0), ("a", 4), ("a", 9), ("b", 0), ("b", 4), ("b", 9)]
    assert example_answers([], 6) == []


def test_the_gates_of_a_longer_context(gate_run, tmp_path):
    page, _, _ = made((gate_run,), tmp_path / "report")
    assert page.sections == ["stages", "scores", "lineage"]
    assert "Short text, read at 256 tokens, has not recovered. 48 facts" in page.text
    (field,) = (trace for figure in page.figures for trace in figure["data"])
    assert (field["x"], field["y"]) == (["128", "256", "384", "512"], ["0%", "50%", "100%"])
    assert field["z"] == [[1.0, 1.0, 1.0, 0.25], [1.0] * 4, [1.0] * 4]
    assert "0.0120.004 to 0.0209" in page.text
    assert "short text +0.012 bits/byte; found 0.90" in page.text
    assert ("ab" * 32) in page.text


def test_pieces_cover_the_text_and_all_tokens(runs):
    from tokenizers import Tokenizer

    file = of(runs, "tokenizer")[0].file("tokenizer/tokenizer.json")
    text = ReportConfig().token_text
    split = pieces(file, text)
    assert "".join(piece for piece, _ in split) == text
    assert [token for _, ids in split for token in ids] == Tokenizer.from_file(str(file)).encode(text).ids
    assert ("é", 2) in [(piece, len(ids)) for piece, ids in split]


@pytest.mark.slow
def test_a_browser_draws_it_and_runs_no_script_of_the_data(runs, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    made(runs, tmp_path / "report")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    command = [
        browser,
        *flags,
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run([*command, (tmp_path / "report" / "report.html").as_uri()], capture_output=True, timeout=120, check=True)
    dom = done.stdout.decode()
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert dom.count('class="plot js-plotly-plot"') == page.count('<div class="plot"') >= 7
    assert "img" not in Page(dom).tags
