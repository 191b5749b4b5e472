"""A question and its answers become one document, wherever they stand in the dump; what is neither, or damaged, is told."""

import io
from contextlib import nullcontext
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.pages import DamageError, Page, Place
from openherd.data.reading import Reading, read_file, site_of
from openherd.data.stackexchange import read_posts

SITE = "math.stackexchange.com"


def row(**fields):
    return "  <row " + " ".join(f"{name}={quoteattr(str(value))}" for name, value in fields.items()) + " />\n"


def post(number, kind, body, score=0, **fields):
    given = {"Id": number, "PostTypeId": kind, "Score": score, "Body": body, "CreationDate": "2015-01-02T03:04:05.678"}
    return row(**{**given, "ContentLicense": "CC BY-SA 3.0", **fields})


def dump(*rows, kind="posts"):
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n<{kind}>\n{"".join(rows)}</{kind}>'.encode()


POSTS = [
    post(1, 1, "<p>What is $x^2$?</p>\n<pre><code>def f():\n    return 1\n</code></pre>", 5, Title="A &amp; B", OwnerUserId=7),
    post(2, 2, "<p>Low</p>", 1, ParentId=1, OwnerUserId=8, ContentLicense="CC BY-SA 4.0", LastEditDate="2020-01-01T00:00:00.000"),
    post(3, 1, "<p>Nobody knows.</p>", Title="Alone", OwnerDisplayName="user99"),
    post(4, 5, "<p>About a tag</p>"),
    post(5, 2, "<p>High</p>", 9, ParentId=1, OwnerUserId=9),
    post(6, 2, "<p>Lost</p>", ParentId=77),
    post(7, 2, "<p>Equal, later</p>", 1, ParentId=1),
]
USERS = dump(row(Id=7, DisplayName="Ada"), row(Id=8, DisplayName="Bob & Co"), kind="users")


def read(posts, users=USERS, start=0):
    opened = (lambda: nullcontext(io.BytesIO(users))) if users else None
    return list(read_posts(lambda: nullcontext(io.BytesIO(posts)), opened, SITE, Place(0, start)))


def test_a_question_with_its_answers_best_first():
    found = read(dump(*POSTS))
    kept = [page for page in found if not page.drop]
    assert [page.offset for page in kept] == [1, 3]
    assert kept[0].content.decode() == "A & B\n\nWhat is $x^2$?\n\ndef f():\n    return 1\n\nHigh\n\nLow\n\nEqual, later"
    assert kept[0].url == f"https://{SITE}/q/1"
    assert (kept[0].license, kept[0].attribution) == ("CC-BY-SA-3.0 AND CC-BY-SA-4.0", "Ada; user 9; Bob & Co")
    assert (kept[0].date, kept[0].title, kept[0].source) == ("2020-01-01T00:00:00Z", "A & B", "stackexchange")
    assert (kept[1].attribution, kept[1].license) == ("user99", "CC-BY-SA-3.0")
    dropped = {page.content.decode(): (page.drop.reason, page.drop.detail) for page in found if page.drop}
    assert dropped == {
        "About a tag": ("post type", "tag wiki"),
        "Lost": ("no question", "an answer to 77, which is not there"),
    }


def test_without_users():
    assert read(dump(*POSTS), None)[1].attribution == "user 7; user 9; user 8"


@settings(max_examples=25)
@given(st.permutations(POSTS))
def test_the_order_of_posts_changes_nothing(posts):
    assert {page.content for page in read(dump(*posts))} == {page.content for page in read(dump(*POSTS))}


@pytest.mark.parametrize(
    "broken",
    [
        "  <row Id=5 />\n",
        "  <row Id='5'\n",
        "noise\n",
        post(5, 2, "x", "many", ParentId=1),
        row(PostTypeId=1, Body="no number"),
        "<row \x01/>\n",
    ],
)
def test_a_damaged_line_alone_is_lost(broken):
    found = read(dump(*POSTS[:4], broken, *POSTS[5:]))
    assert [x.offset for x in found if isinstance(x, DamageError)] == [7]
    assert [page.offset for page in found if isinstance(page, Page) and not page.drop] == [1, 3]
    for i in range(len(found) + 1):
        assert [str(x) for x in read(dump(*POSTS[:4], broken, *POSTS[5:]), start=i)] == [str(x) for x in found[i:]]


def test_a_dump_that_is_cut_off():
    content = dump(*POSTS)
    for cut in range(60, len(content), 101):
        found = read(content[:cut])
        assert any(isinstance(x, DamageError) for x in found) == (not content[:cut].endswith(b"</posts>"))
        assert all(
            page.content in {p.content for p in read(content)} or page.offset == 1 for page in found if isinstance(page, Page)
        )


def test_files_and_archives(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    folder = tmp_path / SITE
    folder.mkdir()
    (folder / "Posts.xml").write_bytes(dump(*POSTS))
    (folder / "Users.xml").write_bytes(USERS)
    expected = [str(page) for page in read(dump(*POSTS))]
    assert [str(page) for page in read_file(str(folder / "Posts.xml"), Reading())] == expected
    (users,) = read_file(str(folder / "Users.xml"), Reading())
    assert (users.drop.reason, users.drop.detail) == ("file kind", "XML: users")
    archive = tmp_path / f"{SITE}.7z"
    with py7zr.SevenZipFile(archive, "w") as made:
        made.writestr(b"<badges></badges>", "Badges.xml")
        made.writestr(dump(*POSTS), "Posts.xml")
        made.writestr(USERS, "Users.xml")
    assert [str(page) for page in read_file(str(archive), Reading())] == expected
    (tmp_path / "cut.7z").write_bytes(archive.read_bytes()[:-40])
    (damage,) = read_file(str(tmp_path / "cut.7z"), Reading())
    assert isinstance(damage, DamageError)
    broken = bytearray(archive.read_bytes())
    broken[200] ^= 255
    (tmp_path / "broken.7z").write_bytes(broken)
    assert any(isinstance(found, DamageError) for found in read_file(str(tmp_path / "broken.7z"), Reading()))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("/data/math.stackexchange.com/Posts.xml", "math.stackexchange.com"),
        ("s3://bucket/stackoverflow.com-Posts.7z", "stackoverflow.com"),
        ("/data/askubuntu.com.7z", "askubuntu.com"),
        ("/data/Posts.xml", ""),
    ],
)
def test_sites(name, site):
    assert site_of(name) == site
