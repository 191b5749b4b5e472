"""Lists of addresses in the forms in which they are published; a slow twin of the search."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.address_lists import Builder, Entry, beginning, parse_line
from openherd.data.urls import host_of, normalise


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("bad.example", [Entry("bad.example")]),
        ("  BAD.example.   # why", [Entry("bad.example")]),
        ("*.bad.example", [Entry("bad.example")]),
        (".bad.example", [Entry("bad.example")]),
        ("bücher.example", [Entry("xn--bcher-kva.example")]),
        ("||bad.example^", [Entry("bad.example")]),
        ("||bad.example^$important,document", [Entry("bad.example")]),
        ("||bad.example/folder/*", [Entry("bad.example/folder")]),
        ("@@||good.example^", [Entry("good.example", True)]),
        ("@@||good.example^$document", [Entry("good.example", True)]),
        ("|https://www.bad.example/a|", [Entry("bad.example/a")]),
        ("0.0.0.0 bad.example worse.example", [Entry("bad.example"), Entry("worse.example")]),
        ("127.0.0.1\tbad.example # comment", [Entry("bad.example")]),
        ("::1 localhost ip6-localhost", []),
        ("bad.example/folder/", [Entry("bad.example/folder")]),
        ("https://bad.example/a?b=1#c", [Entry("bad.example/a?b=1")]),
        ("http://bad.example:8080/", [Entry("bad.example")]),
        ("10.20.30.40", [Entry("10.20.30.40")]),
        ("2001:db8:0::1", [Entry("2001:db8::1")]),
        ("", []),
        ("# a comment", []),
        ("! a comment", []),
        ("[Adblock Plus 2.0]", []),
        ("||bad.example^$third-party", None),  # a rule for what pages of others load from there
        ("||bad.example^$domain=other.example", None),
        ("example.com##.banner", None),
        ("##.banner", None),
        ("/banner/*/ad.", None),
        ("||ads.*^", None),
        ("-banner-468x60.", None),
        ("localhost", None),
    ],
)
def test_lines(line, entries):
    assert parse_line(line) == entries


def rules(tmp_path, files, only=(), allowed=None):
    for name, text in files.items():
        path = tmp_path / "lists" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    builder = Builder()
    builder.read(Outside(str(tmp_path / "lists")), only)
    if allowed:
        (tmp_path / "allowed.txt").write_text(allowed, encoding="utf-8")
        builder.read(Outside(str(tmp_path / "allowed.txt")), is_allowed=True)
    return builder


def verdict(found):
    entry, is_allowed = found
    return entry and (entry.name, entry.category, is_allowed)


def test_folders_of_categories(tmp_path):
    files = {
        "adult/domains": "bad.example\n",
        "adult/urls": "mixed.example/adult\n",
        "adult/expressions": "(^|[-.])bad\n",
        "games/domains": "play.example\n",
        "global_usage": "text about the lists\n",
    }
    found = rules(tmp_path, files).build()
    assert verdict(found.find("http://a.bad.example/x")) == ("bad.example", "adult", False)
    assert verdict(found.find("http://www.mixed.example/adult/1")) == ("mixed.example/adult", "adult", False)
    assert verdict(found.find("http://mixed.example/adult?x")) == ("mixed.example/adult", "adult", False)
    assert verdict(found.find("http://mixed.example/adults")) is None
    assert verdict(found.find("http://play.example/")) == ("play.example", "games", False)
    assert verdict(rules(tmp_path, {}, only=("adult",)).build().find("http://play.example/")) is None


def test_a_category_that_no_list_has_is_refused(tmp_path):
    with pytest.raises(InputError, match="lists: no list of category 'aduld'; allowed: adult"):
        rules(tmp_path, {"adult/domains": "bad.example\n", "global_usage": "text\n"}, only=("adult", "aduld"))
    with pytest.raises(InputError, match="no list of category 'adult'; give the input domains"):
        Builder().read(None, ("adult",))


def test_the_longest_entry_decides_and_of_equal_ones_the_allowed(tmp_path):
    found = rules(
        tmp_path, {"spam.txt": "||bad.example^\n@@||good.bad.example^\nequal.example\n"}, allowed="equal.example\n"
    ).build()
    assert verdict(found.find("https://bad.example/")) == ("bad.example", "spam", False)
    assert verdict(found.find("https://x.good.bad.example/")) == ("good.bad.example", "spam", True)
    assert verdict(found.find("https://equal.example/")) == ("equal.example", "allowed", True)


def test_what_no_page_can_be_judged_by_is_counted(tmp_path):
    builder = rules(tmp_path, {"ads.txt": "! title\n||bad.example^\n##.banner\n/ad/*\n"})
    assert (len(builder.build()), builder.n_passed_over) == (1, 2)


@pytest.mark.parametrize("content", [b"\x1f\x8b\xff", b"no list\nat all\n"])
def test_what_is_no_list_is_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"list\.txt"):
        Builder().read(Outside(str(tmp_path / "list.txt")))


LABELS = st.sampled_from(["a", "b", "bad"])
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PATHS = st.lists(LABELS, max_size=3).map(lambda parts: "".join(f"/{part}" for part in parts))
ENTRIES = st.lists(st.tuples(HOSTS, PATHS, st.booleans()), max_size=6)


@given(ENTRIES, HOSTS, PATHS, st.sampled_from(["", "?q=1"]))
def test_an_address_is_judged_as_by_looking_at_each_entry(entries, host, path, query):
    builder = Builder()
    for entry_host, entry_path, is_allowed in entries:
        builder.add(Entry(entry_host + entry_path, is_allowed), "c")
    address = normalise(f"http://{host}{path}{query}")
    whole = beginning(address)
    fitting = []
    for entry_host, entry_path, is_allowed in entries:
        if entry_path:
            name = entry_host + entry_path
            fits = whole == name or whole.startswith((name + "/", name + "?"))
        else:
            name = entry_host
            fits = host_of(address) == name or host_of(address).endswith("." + name)
        if fits:
            fitting.append(("/" in name, len(name), is_allowed, name))
    entry, is_allowed = builder.build().find(address)
    if not fitting:
        assert (entry, is_allowed) == (None, False)
    else:
        _, _, expected_allowed, name = max(fitting)
        assert entry is not None
        assert (entry.name, is_allowed) == (name, expected_allowed)
