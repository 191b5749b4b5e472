"""A tree's files are kept with language, licence and address, or dropped with a reason; every one is accounted for."""

import shutil
import subprocess

import pytest
from dulwich.objects import Blob
from dulwich.repo import Repo

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.git_tree import language_of, license_of, named_license, read_tree, web_address
from openherd.data.locations import files_of
from openherd.data.pages import DamageError, Page, Place, all_found
from source_files import CODE, MIT, TEXTS, committed

KEPT = {  # path to language and licence
    "README.md": ("", "MIT"),
    "src/a.py": ("python", "MIT"),
    "src/b.h": ("c++", "MIT"),
    "src/c.h": ("c", "MIT"),
    "src/run": ("python", "MIT"),
    "src/header.c": ("c", "GPL-2.0-only OR BSD-3-Clause"),
    "src/latin.py": ("python", "MIT"),
    "sub/deep/x.rs": ("rust", "Apache-2.0 OR MIT"),
    "own/x.go": ("go", "LicenseRef-COPYING"),
    "web/app.js": ("javascript", "MIT"),
    "kept_vendor/vendor/z.c": ("c", "MIT"),
}
DROPPED = {
    "LICENSE": "license text",
    "sub/LICENSE-APACHE": "license text",
    "sub/LICENSE-MIT": "license text",
    "own/COPYING": "license text",
    "web/app.min.js": "minified",
    "web/packed.js": "minified",
    "node_modules/x/index.js": "vendored",
    "third_party/y.c": "vendored",
    "made/p_pb2.py": "generated",
    "made/q.go": "generated",
    "made/told.c": "generated",
    "package-lock.json": "generated",
    "data/t.csv": "data file",
    "data/t.json": "data file",
    "logo.png": "binary",
    "big.py": "too large",
    "empty.py": "empty",
    "odd.qqq": "unknown language",
    "link": "symbolic link",
    ".gitattributes": "data file",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("git") / "herd"
    with committed(folder, CODE) as repo:
        config = repo.get_config()
        config.set((b"remote", b"origin"), b"url", b"https://me:secret@github.com/someone/herd.git")
        config.write_to_path()
        return folder, repo.head().decode()


def test_every_file_is_kept_or_dropped_with_a_reason(tree):
    folder, commit = tree
    pages = list(all_found(read_tree(str(folder))))
    base = f"https://github.com/someone/herd/blob/{commit}/"
    assert [page.url.removeprefix(base) for page in pages] == sorted(CODE)
    by_name = {page.title: page for page in pages}
    kept = {name: (page.programming_language, page.license) for name, page in by_name.items() if not page.drop}
    assert kept == KEPT
    assert {name: page.drop.reason for name, page in by_name.items() if page.drop} == DROPPED
    assert by_name["README.md"].content_type == "text/markdown; charset=utf-8"
    assert by_name["src/latin.py"].content.decode() == "# grüße\n"
    assert {(page.date, page.attribution, page.source) for page in pages} == {("2026-01-01T00:00:00Z", "someone/herd", "code")}
    assert by_name["LICENSE"].content.decode() == MIT  # kept, if not as a document
    assert by_name["LICENSE"].drop.detail == "MIT"


def test_reading_goes_on_from_any_file(tree):
    pages = list(all_found(read_tree(str(tree[0]))))
    for i in (0, 7, len(pages) - 1, len(pages)):
        assert list(all_found(read_tree(str(tree[0]), Place(0, i)))) == pages[i:]


def test_what_is_committed_counts_not_what_lies_there(tree, tmp_path):
    shutil.copytree(tree[0], tmp_path / "herd")
    (tmp_path / "herd" / "new.py").write_text("x = 1\n", encoding="utf-8")
    assert [page.title for page in all_found(read_tree(str(tmp_path / "herd")))] == sorted(CODE)


def test_a_tree_is_one_file_of_a_location(tree, tmp_path):
    shutil.copytree(tree[0], tmp_path / "all" / "herd")
    (tmp_path / "all" / "a.html").write_bytes(b"<p>a")
    committed(tmp_path / "all" / "bare.git", {"a.py": "x = 1\n"}, bare=True).close()
    (tmp_path / "all" / "herd" / "loose.txt").write_bytes(b"not committed")
    found = [file.path for file in files_of(Outside(str(tmp_path / "all")), "")]
    assert found == [str(tmp_path / "all" / name) for name in ("a.html", "bare.git", "herd")]
    assert [page.title for page in all_found(read_tree(found[1]))] == ["a.py"]


def test_looking_at_a_tree_makes_it_no_other_input(tree, tmp_path):
    shutil.copytree(tree[0], tmp_path / "herd")
    given = Outside(str(tmp_path / "herd"))
    before = given.digest
    (tmp_path / "herd" / ".git" / "index").write_bytes(b"as git status does")
    assert given.digest == before
    (tmp_path / "herd" / ".git" / "refs" / "heads" / "other").write_text("0" * 40, encoding="utf-8")
    assert given.digest != before


def test_a_damaged_object_alone_is_lost(tmp_path):
    committed(tmp_path / "herd", {f"{i}.py": f"x = {i}\n" for i in range(3)}).close()
    blob = Blob.from_string(b"x = 1\n").id.decode()
    file = tmp_path / "herd" / ".git" / "objects" / blob[:2] / blob[2:]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-8])
    pages = list(all_found(read_tree(str(tmp_path / "herd"))))
    assert [page.title for page in pages if isinstance(page, Page)] == ["0.py", "2.py"]
    assert [page.offset for page in pages if isinstance(page, DamageError)] == [1]


def test_no_commit(tmp_path):
    with pytest.raises(InputError, match="a folder that is no git tree; name its files"):
        list(read_tree(str(tmp_path)))
    Repo.init(tmp_path).close()
    with pytest.raises(InputError, match=r"no commit can be read \(no HEAD\); commit"):
        list(read_tree(str(tmp_path)))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_files_are_those_that_git_lists(tree):
    command = ["git", "-C", str(tree[0]), "ls-tree", "-r", "-z", "--name-only", "HEAD"]
    listed = subprocess.run(command, capture_output=True, check=True)
    assert sorted(filter(None, listed.stdout.decode().split("\0"))) == [page.title for page in all_found(read_tree(str(tree[0])))]


QUICK = ("Apache-2.0", "BSD-3-Clause", "ISC", "MIT", "Unlicense", "Zlib")


@pytest.mark.parametrize(
    "spdx", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(TEXTS.keys() - set(QUICK)))]
)
def test_licenses_by_their_text(spdx):
    assert license_of(TEXTS[spdx].replace("[year]", "2026").replace("[fullname]", "A. Herd").replace("\n", "\r\n")) == spdx


def test_licenses_that_are_not_known_or_named():
    assert license_of("Do what the herd does.") == ""
    assert named_license(b"<!-- SPDX-License-Identifier: MIT -->\n") == "MIT"
    assert named_license(b"// SPDX-License-Identifier: (MIT AND Zlib)\r\n") == "(MIT AND Zlib)"
    assert named_license(b"MIT") == ""


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("a.m", "#import <Foundation/Foundation.h>\n@interface A : NSObject\n@end\n", "objective-c"),
        ("a.m", "function y = f(x)\n% all of it\ny = x;\nend\n", "matlab"),
        ("a.h", "@interface A\n@end\n", "objective-c"),
        ("a.pl", "use strict;\nmy $x = 1;\n", "perl"),
        ("a.pl", ":- module(a, [b/1]).\nb(X) :- c(X).\n", "prolog"),
        ("Makefile", "all:\n", "makefile"),
        ("CMakeLists.txt", "project(x)\n", "cmake"),
        ("Dockerfile", "FROM debian\n", "dockerfile"),
        ("a.sql", "select 1;", "sql"),
        ("a.R", "x <- 1", "r"),
        ("a.lisp", "(defun f (x) x)", "common-lisp"),
        ("a.bash", "ls", "bash"),
        ("build", "#!/bin/sh\nls\n", "sh"),
    ],
)
def test_languages(path, text, language):
    assert language_of(path, text) == (language, "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a.rst", "prose"),
        ("NEWS", "prose"),
        ("a.yaml", "data file"),
        ("a.svg", "data file"),
        ("go.mod", "data file"),
        ("x", "unknown language"),
    ],
)
def test_what_is_no_code(path, reason):
    assert language_of(path, "words\n") == ("", reason)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b/blob/c/"),
        ("git@github.com:a/b.git", "https://github.com/a/b/blob/c/"),
        ("ssh://git@gitlab.com/a/b/d", "https://gitlab.com/a/b/d/-/blob/c/"),
        ("https://me:token@example.org/a/b", "https://example.org/a/b/blob/c/"),
        ("/srv/git/b.git", ""),
        ("../b", ""),
    ],
)
def test_addresses_on_the_web(remote, address):
    assert web_address(remote, "c") == address
