"""A question and its answers become one document, wherever they stand in the posts_dump; what is neither, or damaged, is told."""

import io
import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.pages import DamageError, Page, Place, all_found
from openherd.data.reading import Reading, read_file, site_of
from openherd.data.stackexchange import read_posts
from source_files import POSTS, USERS, post, posts_dump, row

SITE = "math.stackexchange.com"


def read(posts, users=USERS, start=0):
    opened = (lambda: nullcontext(io.BytesIO(users))) if users else None
    return list(all_found(read_posts(lambda: nullcontext(io.BytesIO(posts)), opened, SITE, Place(0, start))))


def test_a_question_with_its_answers_best_first():
    found = read(posts_dump(*POSTS))
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
    assert read(posts_dump(*POSTS), None)[1].attribution == "user 7; user 9; user 8"


@settings(max_examples=25)
@given(st.permutations(POSTS))
def test_the_order_of_posts_changes_nothing(posts):
    assert {page.content for page in read(posts_dump(*posts))} == {page.content for page in read(posts_dump(*POSTS))}


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
    found = read(posts_dump(*POSTS[:4], broken, *POSTS[5:]))
    assert [x.offset for x in found if isinstance(x, DamageError)] == [7]
    assert [page.offset for page in found if isinstance(page, Page) and not page.drop] == [1, 3]
    for i in range(len(found) + 1):
        assert [str(x) for x in read(posts_dump(*POSTS[:4], broken, *POSTS[5:]), start=i)] == [str(x) for x in found[i:]]


def test_a_dump_that_is_cut_off():
    content = posts_dump(*POSTS)
    for cut in range(60, len(content), 101):
        found = read(content[:cut])
        assert any(isinstance(x, DamageError) for x in found) == (not content[:cut].endswith(b"</posts>"))
        assert all(
            page.content in {p.content for p in read(content)} or page.offset == 1 for page in found if isinstance(page, Page)
        )


def test_a_killed_process_leaves_no_file(tmp_path):
    (tmp_path / "Posts.xml").write_bytes(posts_dump(*POSTS))
    (tmp_path / "temporary").mkdir()
    program = (
        "import os, sys; from openherd.data.stackexchange import read_posts; "
        "records = read_posts(lambda: open(sys.argv[1], 'rb'), None, 'a.org'); next(records); os._exit(7)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path / "temporary")}
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path / "Posts.xml")], env=environment).returncode == 7
    assert not list((tmp_path / "temporary").iterdir())


def test_files_and_archives(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    folder = tmp_path / SITE
    folder.mkdir()
    (folder / "Posts.xml").write_bytes(posts_dump(*POSTS))
    (folder / "Users.xml").write_bytes(USERS)
    expected = [str(page) for page in read(posts_dump(*POSTS))]
    assert [str(page) for page in read_file(str(folder / "Posts.xml"), Reading())] == expected
    (users,) = read_file(str(folder / "Users.xml"), Reading())
    assert (users.drop.reason, users.drop.detail) == ("file kind", "XML: users")
    archive = tmp_path / f"{SITE}.7z"
    with py7zr.SevenZipFile(archive, "w") as made:
        made.writestr(b"<badges></badges>", "Badges.xml")
        made.writestr(posts_dump(*POSTS), "Posts.xml")
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
