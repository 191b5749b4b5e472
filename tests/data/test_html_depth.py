"""Tags that would take lexbor the square of a page's size go, their text stays, and no other page is touched."""

from hypothesis import given
from hypothesis import strategies as st

from openherd.data.html_blocks import page_blocks
from openherd.data.html_depth import DEEPEST, MANY_TAGS, shallow
from openherd.data.html_text import text_of


def text(page):
    return text_of(page_blocks(page, alt_texts=True).blocks)


def test_tags_beyond_a_browser_depth_go_and_their_text_stays():
    n = 2 * MANY_TAGS
    page = "<div>" * n + "deep" + "</div>" * n + "<p>after</p>"
    cut = shallow(page)
    assert cut.count("<div>") == cut.count("</div>") == DEEPEST
    assert text(page) == "deep\n\nafter"
    flat = "<div>a</div>" * n
    assert shallow(flat) == flat


def test_tags_of_thousands_of_attributes_go():
    many = "<div " + " ".join(f"a{i}=1" for i in range(20_000)) + ">end"
    assert shallow(many) == "end"
    image = f'<img alt="x" src="data:image/png;base64,{"A" * 200_000}">'
    assert shallow(image) == image


@given(st.lists(st.sampled_from(["<div>", "</div>", "<p>", "</b>", "<b>", "<br>", "<li>", "x"]), max_size=60))
def test_what_is_not_deep_stays(parts):
    page = "".join(parts)
    assert shallow(page + "<i></i>" * MANY_TAGS) == page + "<i></i>" * MANY_TAGS
