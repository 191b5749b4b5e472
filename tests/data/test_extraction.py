"""Pages to text: the modes, limits, the stage, and real articles beside what people marked as their text."""

import gzip
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.documents import DROPPED, PAGE_SCHEMA
from openherd.data.extraction import ExtractionConfig, extract, extraction, tidy

ALL = ExtractionConfig(mode="all")
FAST = ExtractionConfig()

CODE = "def f(x):\n    if x:\n\n        return  1\n\treturn 2  # tab"
PAGE = f"""<!DOCTYPE html><html><head><title> On
 bridges </title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home</a><li><a href="/all">All pages</a></ul></nav>
<article><h1>On bridges</h1>
<p>A bridge carries a road over a river, a valley or another road,
   and there are many ways to build&nbsp;one; this page tells of some of them.</p>
<pre><code>{CODE}</code></pre>
<p>Its length is <img alt="\\sqrt{{a^2 + b^2}}" src="x.png">, as Pythagoras knew long before the first such bridge was built.</p>
</article><script>track()</script><footer><p>Copyright, all rights reserved</p></footer></body></html>"""


def row(content, content_type="text/html; charset=utf-8", **fields):
    content = content.encode() if isinstance(content, str) else content
    lineage = {"id": "0" * 32, "url": "http://a.test/", "date": "", "source": "web", "file": "a.warc", "offset": 7}
    return {**lineage, "content_type": content_type, "content": content, **fields}


def test_main_content_keeps_code_and_formulas_and_leaves_menus():
    title, text = extract(row(PAGE), FAST)
    assert title == "On bridges"
    assert CODE in text
    assert "many ways to build one; this page" in text
    assert r"Its length is \sqrt{a^2 + b^2}, as" in text
    for unwanted in ("Home", "Copyright", "track()", "p {}", "\xa0"):
        assert unwanted not in text


def test_all_text_and_no_alternative_text():
    text = extract(row(PAGE), ExtractionConfig(mode="all", alt_texts=False))[1]
    assert "All pages" in text
    assert "Copyright" in text
    assert CODE in text
    assert "sqrt" not in text
    assert "track()" not in text


def test_lines_of_a_definition_keep_their_indentation():
    page = "<dl><dt><b>f</b>(x)</dt><dd><tt>First:<br>\n&nbsp;&nbsp;second&nbsp;line<br>\n&nbsp;<br>\nlast</tt></dd></dl>"
    assert extract(row(page), ALL)[1] == "f(x)\nFirst:\n  second line\n\nlast"


@given(
    st.binary(max_size=200),
    st.sampled_from(["text/html", "text/plain; charset=utf-8", "text/markdown; charset=gbk", "text/html; charset=utf-16"]),
)
def test_any_bytes_become_text_that_can_be_stored(content, content_type):
    title, text = extract(row(content, content_type), ALL)
    (title + text).encode()
    assert tidy(text) == text


@given(st.text(alphabet=st.sampled_from("ab \n\t\r\xa0\x00\u2028\x85\ufeff"), max_size=40))
def test_tidy_lines(text):
    tidied = tidy(text)
    assert tidy(tidied) == tidied
    assert re.search(r"[^\S\n\t ]|[ \t]\n|\n\n\n|\A\n|[\s]\Z|\x00", tidied) is None
    assert re.findall("[ab]", tidied) == re.findall("[ab]", text)


def test_text_passes_as_it_is():
    text = "# not a heading\n  * point\n\n\n\n<b>bold</b> & **more**\n"
    assert extract(row(text, "text/plain"), FAST) == ("", "# not a heading\n  * point\n\n<b>bold</b> & **more**")


def test_markdown_pages():
    assert extract(row("# A **b**", "text/markdown"), FAST)[1] == "A b"
    assert extract(row("# A **b**", "text/markdown"), ExtractionConfig(markdown_markers=True))[1] == "# A **b**"


HOSTILE = [
    "<div>", "<dl><dd>", "<ul><li>", "<table><tr><td>", "<b><i>", "<b><div>", "&nbsp;", "<a href='", "<!-- ", "<span>",
    "<math><mrow>", "<", "<section class='a'><h2>x<p>It is a sentence, of some length; and it goes on and on, to the end.",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_pages_end(piece):
    for mode in ("all", "precise", "union"):
        extract(row(piece * 10_000 + "end"), ExtractionConfig(mode=mode))


@pytest.mark.parametrize(
    "page", ["<div " + " ".join(f"a{i}=1" for i in range(100_000)) + ">end", "<span>" * 50_000 + "<p>x</p>" * 20_000]
)
def test_pages_that_take_lexbor_the_square_of_their_size_end(page):
    assert extract(row(page), ALL)[1].endswith("end" if page.endswith("end") else "x")


def test_pages_beyond_the_limits_are_dropped_with_the_reason(documents_run, run_stage, rows_of):
    pages = [row(PAGE, id="1" * 32), row("<p>x</p>" * 30_000, id="2" * 32)]
    large = run_stage(extraction, ExtractionConfig(page_mb=0.1), documents=documents_run(pages, PAGE_SCHEMA))
    assert [(r["id"], r["reason"], r["detail"]) for r in rows_of(large, DROPPED)] == [
        ("2" * 32, "too much", "0.2 MB, more than 0.1")
    ]
    assert [r["id"] for r in rows_of(large)] == ["1" * 32]
    slow = run_stage(extraction, ExtractionConfig(page_s=1e-9), documents=documents_run(pages, PAGE_SCHEMA))
    assert {(r["reason"], r["detail"]) for r in rows_of(slow, DROPPED)} == {("too much", "takes more than 1e-09 s")}
    assert len(rows_of(slow, DROPPED)) == 2


def test_every_kind_of_line_break_ends_a_line():
    assert tidy("a\x0bb\x0cc\x85d\u2028e\r\nf") == "a\nb\nc\nd\ne\nf"


def test_a_title_that_was_read_stands_where_the_page_has_none(documents_run, run_stage, rows_of):
    pages = [("text/plain", "It holds."), ("text/markdown", "It holds."), ("text/html", "<p>It holds.</p>"), ("text/html", PAGE)]
    pages = [
        {"id": f"{i:032x}", "url": "", "title": "Read", "content_type": kind, "content": text.encode()}
        for i, (kind, text) in enumerate(pages)
    ]
    run = run_stage(extraction, ALL, documents=documents_run(pages, PAGE_SCHEMA))
    assert [row["title"] for row in rows_of(run)] == ["Read", "Read", "Read", "On bridges"]


def test_the_heading_that_is_the_title():
    page = (
        f"<title>On bridges | A site</title><h1>On bridges</h1><p>{'A bridge carries a road over a river, or a valley. ' * 5}</p>"
    )
    assert "On bridges" not in extract(row(page), FAST)[1]
    assert extract(row(page), ExtractionConfig(titles=True))[1].startswith("On bridges\n\nA bridge carries")
    assert extract(row(page), FAST)[0] == "On bridges | A site"


def test_union_keeps_what_either_keeps():
    page = f"""<title>x</title><div class="page"><div class="story"><p>{"The first part says one thing. " * 9}</p></div>
        <div class="extra"><p>{"The second part, elsewhere, says a third thing. " * 1}</p></div></div>"""
    fast, union = (set(extract(row(page), ExtractionConfig(mode=mode))[1].split("\n")) for mode in ("fast", "union"))
    assert fast < union
    assert any("third thing" in line for line in union)


def test_a_page_without_text_is_dropped_and_lineage_stays(documents_run, run_stage, rows_of):
    pages = [
        row(PAGE, id="1" * 32),
        row("<html><body><script>x()</script> &nbsp; </body></html>", id="2" * 32),
        row("", id="3" * 32),
    ]
    run = run_stage(extraction, FAST, documents=documents_run(pages, PAGE_SCHEMA))
    kept = rows_of(run)
    assert [(r["id"], r["offset"], r["file"], r["title"]) for r in kept] == [("1" * 32, 7, "a.warc", "On bridges")]
    dropped = rows_of(run, DROPPED)
    assert [(r["id"], r["reason"]) for r in dropped] == [("2" * 32, "no text"), ("3" * 32, "no text")]
    assert [r["text"] for r in dropped] == [pages[1]["content"].decode(), ""]  # nothing that was dropped is lost
    assert run.metrics["dropped"]["no text"] == {"documents": 2, "bytes": len(pages[1]["content"])}
    assert run.metrics["bytes_out"] == len(kept[0]["text"].encode())


def word_f1(found, wanted):
    a, b = (Counter(re.findall(r"\w+", text)) for text in (found, wanted))
    common = (a & b).total()
    return 2 * common / max(a.total() + b.total(), 1)


def test_main_content_of_real_articles(shared_data):
    folder = shared_data("article_extraction")
    truth = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    scores = {"fast": [], "precise": [], "union": [], "all": []}
    for file in sorted(folder.glob("*.html.gz")):
        wanted = truth[file.name.removesuffix(".html.gz")]["articleBody"]
        for mode, found in scores.items():
            found.append(word_f1(extract(row(gzip.decompress(file.read_bytes())), ExtractionConfig(mode=mode))[1], wanted))
    assert len(scores["fast"]) >= 20
    mean = {mode: sum(found) / len(found) for mode, found in scores.items()}
    assert mean["fast"] > 0.98
    assert mean["precise"] > 0.98
    assert mean["fast"] > mean["union"] > mean["all"] + 0.1
