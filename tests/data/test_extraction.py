"""Pages to text: encodings, code, Markdown, and real articles beside what people marked as their text."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.documents import DROPPED, PAGE_SCHEMA
from openherd.data.encodings import decode
from openherd.data.extraction import ExtractionConfig, extract, extraction, tidy
from openherd.data.markdown import without_markers

ARTICLES = Path(__file__).parents[3] / "shared" / "data" / "article_extraction"
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


def markdown(text, **settings):
    return extract(row(text, "text/markdown"), ExtractionConfig(**settings))[1]


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


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        ("naïve €".encode(), "text/html; charset=utf-8", "naïve €"),
        ("naïve €".encode("cp1252"), 'text/html; charset="ISO-8859-1"', "naïve €"),
        ("naïve €".encode(), "text/html; charset=iso-8859-1", "naïve €"),
        ("naïve €".encode(), "text/html", "naïve €"),
        ("联通".encode("gbk"), "text/html; charset=GB2312", "联通"),
        (b'<meta charset="koi8-r">' + "привет".encode("koi8-r"), "text/html", '<meta charset="koi8-r">привет'),
        (b'<meta charset="koi8-r">' + "привет".encode(), "text/html; charset=utf-8", '<meta charset="koi8-r">привет'),
        ("\ufeffmark".encode(), "text/plain", "mark"),
        ("wide €".encode("utf-16"), "text/plain; charset=utf-16", "wide €"),
        (b"good \xff bad", "text/plain; charset=utf-8", "good � bad"),
        (b"text", "text/plain; charset=nonsense", "text"),
        (
            ("Грамматика русского языка и её правила. " * 5).encode("cp1251"),
            "text/html",
            "Грамматика русского языка и её правила. " * 5,
        ),
        (b"", "text/html", ""),
        (b'<meta charset="utf-16">plain', "text/html", '<meta charset="utf-16">plain'),
        ("\ufeffcafé".encode(), "text/html; charset=iso-8859-2", "café"),
        ("wide €".encode("utf-16"), "text/html; charset=iso-8859-1", "wide €"),
    ],
)
def test_encodings(content, content_type, expected):
    assert decode(content, content_type) == expected


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


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("# Title\ntext", "Title\ntext"),
        ("Title\n=====\ntext", "Title\n\ntext"),
        ("### About C#", "About C#"),
        ("#hashtag", "#hashtag"),
        ("some **bold**, *slanted*, __bold text__ and _slanted_ words", "some bold, slanted, bold text and slanted words"),
        ("***both*** and **bold with `code*s*`**", "both and bold with code*s*"),
        ("2 * 3 * 4, a*b*c, snake_case_name and __init__.py", "2 * 3 * 4, a*b*c, snake_case_name and __init__.py"),
        ('see [the page](http://a.test/b_c_d "title") and [that][1]', "see the page and that"),
        ("![a bridge](b.png)", "a bridge"),
        ("use `x = '*a*'` or ``a ` b``", "use x = '*a*' or a ` b"),
        (r"5 \* 3 and \_not\_ slanted", "5 * 3 and _not_ slanted"),
        ("> quoted\n>> twice", "quoted\ntwice"),
        ("- one\n* two\n1. three", "- one\n* two\n1. three"),
        ("above\n\n* * *\n\nbelow", "above\n\nbelow"),
        ("```python\n# comment\nx = a * b * c\n```\n**after**", "# comment\nx = a * b * c\nafter"),
        ("~~~~\n```\n**kept**\n~~~\n~~~~\n*gone*", "```\n**kept**\n~~~\ngone"),
        ("text:\n\n    # comment\n    x = *args*\n\n    y\n\n*after*", "text:\n\n    # comment\n    x = *args*\n\n    y\n\nafter"),
        ("```\nnever closed *a*", "never closed *a*"),
        ("before *x*\n```inline code``` is said\nafter *y*\n\n# Head", "before x\ninline code is said\nafter y\n\nHead"),
    ],
)
def test_markdown_markers_go_and_code_stays(source, plain):
    assert markdown(source) == plain
    assert markdown(source, markdown_markers=True) == source


@given(st.text(alphabet=st.sampled_from("ab*_`[]()!#>\\ \n"), max_size=40))
def test_only_markers_go(source):
    plain = without_markers(source)
    left = iter(source)
    assert all(character in left for character in plain), plain  # a subsequence


@pytest.mark.parametrize("piece", ["<div>", "<dl><dd>", "<table><tr><td>", "<b><i>", "&nbsp;", "<a href='", "<!-- "])
def test_hostile_pages_end(piece):
    extract(row(piece * 20_000 + "end"), ALL)
    extract(row(piece * 1_000 + "end"), FAST)


@pytest.mark.parametrize("piece", ["![", "[a](", "*a ", "**", "_a ", "`a ``", "> ", "# ", "* ", "\\", "[a]["])
def test_hostile_markdown_ends(piece):
    markdown(piece * 20_000)


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


@pytest.mark.skipif(not ARTICLES.is_dir(), reason="needs the real pages of shared/data/article_extraction")
def test_main_content_of_real_articles():
    truth = json.loads((ARTICLES / "ground-truth.json").read_text(encoding="utf-8"))
    scores = {"main": [], "all": []}
    for file in sorted(ARTICLES.glob("*.html.gz")):
        wanted = truth[file.name.removesuffix(".html.gz")]["articleBody"]
        for mode, found in scores.items():
            found.append(word_f1(extract(row(gzip.decompress(file.read_bytes())), ExtractionConfig(mode=mode))[1], wanted))
    main, everything = (sum(found) / len(found) for found in scores.values())
    assert len(scores["main"]) >= 20
    assert main > 0.85
    assert main > everything + 0.1
