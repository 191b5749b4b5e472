"""What of a page is content: made pages, one cause each."""

import pytest

from openherd.data.html_blocks import page_blocks
from openherd.data.html_content import choose

LONG = "A bridge carries a road over a river, a valley or another road, and there are many ways to build one. "
PARAGRAPHS = "".join(f"<p>{LONG} This is paragraph {i} of the text.</p>" for i in range(5))
TEASERS = "".join(f'<div class="card"><a href="/{i}">Another page about something else, number {i}</a></div>' for i in range(6))


def kept(page, mode="fast", titles=False):
    found = page_blocks(page, alt_texts=True)
    choose(found, mode, titles)
    return "\n".join(block.text for block in found.blocks if block.keep)


def around(body):
    return f"""<title>On bridges - A site</title><body><header><h2>A site</h2></header><nav><a href="/">Home</a></nav>{body}
    <div class="teasers">{TEASERS}</div><footer><p>Copyright, all rights reserved, and so on and so forth.</p></footer></body>"""


@pytest.mark.parametrize("mode", ["fast", "precise"])
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('<div class="share-bar">Tell your friends about it, right now, today.</div>', "friends"),
        ("<aside>Read also what we wrote last year about tunnels, at length.</aside>", "tunnels"),
        ('<ul class="related-posts"><li><a href="/t">About tunnels and what they are for</a></ul>', "tunnels"),
        ('<div id="cookieConsent"><p>We use cookies, as everybody does, and you may agree or not.</p></div>', "cookies"),
        ("<form><p>Subscribe to our letter, which comes every week, and no spam ever.</p></form>", "Subscribe"),
        ("<p hidden>Not shown to anyone, but long enough to be a paragraph of text.</p>", "shown"),
        ('<h3>Read more</h3><ul><li><a href="/a">All of the other bridges</a><li><a href="/b">And ferries</a></ul>', "Read more"),
    ],
)
def test_what_surrounds_a_text_goes(mode, extra, words):
    for page in (around(f'<div class="story">{PARAGRAPHS}{extra}</div>'), around(f"<article>{PARAGRAPHS}</article>{extra}")):
        text = kept(page, mode)
        assert text.count(LONG.strip()) == 5
        for word in (words, "Home", "Another page", "Copyright", "A site"):
            assert word not in text


def test_long_comments_do_not_win_over_a_short_text():
    comment = f'<div class="comment"><p>{LONG * 3} I say.</p></div>'
    text = kept(around(f'<div class="story">{PARAGRAPHS}</div><div class="comments">{comment * 8}</div>'))
    assert text.count("paragraph") == 5
    assert "I say" not in text


def test_where_there_is_nothing_but_comments_they_are_the_content():
    comment = f'<div class="comment"><p>{LONG * 3} I say.</p></div>'
    assert kept(around(f'<div class="comments">{comment * 8}</div>')).count("I say") == 8


def test_a_text_in_several_parts_of_a_kind_is_whole():
    parts = "".join(f'<div class="part">{PARAGRAPHS * n}</div>' for n in (1, 9, 1))
    assert kept(around(f"<div>{parts}</div>")).count("paragraph 3") == 11


def test_quoted_posts_stay():
    quote = '<blockquote class="twitter-tweet"><p>We are all concerned about that bridge, which is old.</p></blockquote>'
    assert "We are all concerned" in kept(around(f"<article>{PARAGRAPHS}{quote}{PARAGRAPHS}</article>"))


def test_manuals_keep_code_definitions_and_short_lines():
    manual = f"""<div role="main"><section id="copyright"><h1>Bridge module</h1><p>Build.</p>
    <dl><dt>build(n, wide=True)</dt><dd>{LONG}</dd></dl>
    <pre>import bridge
bridge.build(3)</pre><table><tr><th>n<th>what<tr><td>1<td>small</table><p>See below.</p></section></div>"""
    text = kept(around(manual))
    for words in ("Bridge module", "Build.", "build(n, wide=True)", "import bridge\nbridge.build(3)", "small", "See below."):
        assert words in text
    assert "Another page" not in text


def test_sections_of_a_chapter_stay_together():
    section = '<section id="s{0}"><h2>Part {0}</h2>{1}</section>'
    chapter = f"<div><p>{LONG}</p>{section.format(1, PARAGRAPHS * 9)}{section.format(2, PARAGRAPHS)}</div>"
    text = kept(around(chapter))
    assert text.count("paragraph 3") == 10
    assert "Part 1" in text
    assert "Part 2" in text


def test_a_heading_that_nothing_follows_goes():
    text = kept(around(f"<article>{PARAGRAPHS}<h2>Empty</h2><h3>Empty too</h3><h2>Full</h2>{PARAGRAPHS}</article>"))
    assert "Empty" not in text
    assert "Full" in text


def test_precise_leaves_captions_and_credits():
    body = f"<article>{PARAGRAPHS}<figure><figcaption>A bridge at night</figcaption></figure><div>Photo: someone</div>"
    body += f"{PARAGRAPHS}</article>"
    assert "A bridge at night" in kept(around(body))
    assert "A bridge at night" not in kept(around(body), "precise")
    assert "Photo" not in kept(around(body), "precise")


def test_languages_without_spaces():
    chinese = "".join(f"<p>桥梁是跨越河流、山谷或其他道路的结构，建造方法有很多种，这是第{n}段。</p>" for n in "一二三四五")
    text = kept(around(f'<div class="x">{chinese}</div>'))
    assert text.count("桥梁") == 5
    assert "Another page" not in text
