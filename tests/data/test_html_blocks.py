"""A page as blocks: nothing visible is lost, code keeps its lines, tables their cells; a slow twin by another parser."""

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.html_blocks import SKIPPED, page_blocks, words_of
from openherd.data.html_text import text_of


def text(page):
    return text_of(page_blocks(page, alt_texts=True).blocks)


class Twin(HTMLParser):
    """All text outside of what no browser shows, by another parser and with no notion of blocks."""

    def __init__(self):
        super().__init__()
        self.skipped, self.found = 0, []

    def handle_starttag(self, tag, attrs):
        self.skipped += tag in SKIPPED

    def handle_endtag(self, tag):
        self.skipped = max(self.skipped - (tag in SKIPPED), 0)  # an end without a beginning is nothing

    def handle_data(self, data):
        if not self.skipped:
            self.found.append(data)


def tags(inner):
    one = st.sampled_from(["div", "section", "ul", "blockquote", "b", "span", "pre", "script", "center", "figure"])
    return st.builds(lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", one, st.lists(inner, max_size=4))


PAGES = st.recursive(st.text(alphabet=" ab\n", max_size=6), tags, max_leaves=25)


@settings(max_examples=60)
@given(PAGES)
def test_every_visible_letter_is_in_one_block(page):
    twin = Twin()
    twin.feed(f"<body>{page}</body>")
    blocks = page_blocks(f"<body>{page}</body>", alt_texts=True).blocks
    assert [c for b in blocks for c in b.text if c.isalpha()] == [c for c in "".join(twin.found) if c.isalpha()]


@settings(max_examples=60)
@given(PAGES)
def test_elements_are_a_tree(page):
    found = page_blocks(page, alt_texts=True)
    for i, element in enumerate(found.elements[1:], 1):
        assert element.parent < i <= element.last <= found.elements[element.parent].last
    assert all(0 <= b.element < len(found.elements) for b in found.blocks)
    assert all(0 <= b.link <= len(b.text) for b in found.blocks if "pre" not in page)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>one\n  two</p><p>three</p>", "one two\n\nthree"),
        ("<ul><li>one<ul><li>two</ul><li>three</ul>after", "one\ntwo\nthree\n\nafter"),
        ("<pre>\n\tdef f():\n\n    return <b>1</b>\n</pre>", "\tdef f():\n\n    return 1"),
        ("<p>a<br>b<p>c", "a\nb\n\nc"),
        ('<div style="white-space: pre-wrap">  a\n    b</div><p>x <code>a  b</code>', "  a\n    b\n\nx a b"),
        ("<table><tr><th>Name<th>Value<tr><td>a<td>1<tr><td>b<td><p>2</table>end", "Name\tValue\na\t1\nb\t2\n\nend"),
        (
            "<table><tr><td>" + "long " * 50 + "<td>" + "text " * 50 + "</table>",
            ("long " * 50).strip() + "\n\n" + ("text " * 50).strip(),
        ),
        (
            '<table><tr><td class="blob-num" >1</td><td class="blob-code">def f():</td></tr><tr><td class="blob-num">'
            '2</td><td class="blob-code">    return 1</td></tr></table>',
            "def f():\n    return 1",
        ),
        (
            '<table class="highlighttable"><tr><td class="linenos"><pre>1\n2</pre></td><td class="code"><pre>'
            "a = 1\n  b = 2\n</pre></td></tr></table>",
            "a = 1\n  b = 2",
        ),
        ('<pre><span class="lineno">1 </span>x = 1\n<span class="lineno">2 </span>y</pre>', "x = 1\ny"),
        ('<h2>Head<a class="headerlink" href="#h">¶</a></h2><p hidden>no</p><p style="display:none">no</p><p>yes', "Head\n\nyes"),
        ("<script>x</script><style>y</style><noscript>shown</noscript>", "shown"),
        ('<p>see <a href="x">this</a>, <b>bold</b>', "see this, bold"),
    ],
)
def test_text_of_blocks(page, expected):
    assert text(page) == expected


def test_words_of_names():
    assert words_of("relatedPosts post-list HTMLBody") >= {
        "related",
        "posts",
        "post",
        "list",
        "html",
        "body",
        "post-list",
        "relatedposts",
    }


def test_a_deadline_ends_the_walk():
    class LateError(Exception):
        pass

    calls = []

    def deadline():
        calls.append(1)
        if len(calls) > 2:
            raise LateError

    with pytest.raises(LateError):
        page_blocks("<p>x</p>" * 20_000, alt_texts=True, deadline=deadline)
