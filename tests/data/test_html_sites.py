"""Pages that say by their markup where their content is."""

import json

from openherd.data.html_blocks import page_blocks
from openherd.data.html_sites import special
from openherd.data.html_text import text_of

MENU = '<ul class="menu"><li><a href="/">Questions</a><li><a href="/t">Tags</a></ul>'
QUESTION = f"""<body>{MENU}<h1>How do I reverse a list?</h1><div id="question" class="question"><div class="vote">12</div>
<div class="s-prose js-post-body" itemprop="text"><p>I have:</p><pre><code>a = [1, 2]
for x in a:
    print(x)</code></pre></div><div class="user-info">asked by <a href="/u">someone</a></div><div class="comments">
<span class="comment-copy">Why?</span></div></div><div id="answer-1" class="answer"><div class="s-prose js-post-body"><p>Use
<code>reversed(a)</code>.</p></div><div class="user-info">answered by one</div></div><div id="sidebar">Hot Questions</div></body>"""


def text(page):
    found = page_blocks(page, alt_texts=True)
    return text_of([block for block in found.blocks if block.keep]) if special(found) else None


def test_questions_and_answers():
    expected = "How do I reverse a list?\n\nI have:\n\na = [1, 2]\nfor x in a:\n    print(x)\n\nUse reversed(a)."
    assert text(QUESTION) == expected


def test_questions_by_what_schema_org_says():
    page = f"""<body>{MENU}<h1>Why?</h1><main itemscope itemtype="https://schema.org/QAPage"><div itemprop="text">It is so.</div>
    <div>3 votes</div><div itemprop="suggestedAnswer"><div itemprop="text">No.</div></div></main></body>"""
    assert text(page) == "Why?\n\nIt is so.\n\nNo."


def test_a_repository_shows_its_description():
    page = f"""<body>{MENU}<div class="files">README.md</div><article class="markdown-body entry-content"><h1>Tool</h1>
    <p>It works.</p>    <pre>pip install tool</pre></article><div>About: stars 3</div></body>"""
    assert text(page) == "Tool\n\nIt works.\n\npip install tool"


def test_a_file_in_the_data_of_a_page():
    lines = ["def f():", "    return 1", ""]
    data = json.dumps({"payload": {"blob": {"rawLines": lines}}})
    page = f'<body>{MENU}<p>Skip</p><script type="application/json" data-target="react-app.embeddedData">{data}</script></body>'
    assert text(page) == "\n".join(lines)
    assert text(page.replace("rawLines", "otherLines")) is None
    assert text(page.replace('["def f():"', '{"x":["def f():"')) is None


def test_a_file_in_a_table():
    rows = "".join(
        f'<tr><td class="blob-num">{i}</td><td class="blob-code">{code}</td></tr>' for i, code in enumerate(["if x:", "    y()"])
    )
    assert (
        text(f'<body>{MENU}<div class="blob"><table class="blob-code">{rows}</table></div><p>12 lines</p></body>')
        == "if x:\n    y()"
    )


def test_a_discussion():
    comments = "".join(
        f'<div class="comment"><div class="author">a</div><div class="comment-body">{x}</div></div>' for x in ("one", "two")
    )
    assert text(f"<body>{MENU}<h1>It crashes</h1>{comments}<form>Leave a comment</form></body>") == "It crashes\n\none\n\ntwo"


def test_an_encyclopedia():
    page = f"""<body>{MENU}<div id="mw-content-text"><div class="mw-parser-output"><p>A bridge spans.</p><h2>History
    <span class="mw-editsection">[edit]</span></h2><p>Old.</p><div class="navbox">Other bridges</div>
    <div class="reflist">1. A book</div></div></div><div class="catlinks">Categories</div></body>"""
    assert text(page) == "A bridge spans.\n\nHistory\n\nOld."


def test_other_pages_are_none_of_these():
    assert text(f"<body>{MENU}<article><p>Text.</p></article></body>") is None
