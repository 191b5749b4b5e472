"""What the names of a page's elements say: that they are menus, advertisements, comments and the like, and no content.

A name is the words of class, id and role, in small letters; words are English because the names of nearly all sites are.
"""

from collections.abc import Sequence

from openherd.data.html_blocks import Element, Page

UNLIKELY_NAMES = (
    "ad ads adsense advert advertisement adbox adslot advertising dfp sponsor sponsored sponsors promo promos promotion promoted "
    "banner banners cookie cookies gdpr consent newsletter newsletters subscribe subscription subscriptions signup optin paywall "
    "share sharing shares sharebar sharedaddy addthis addtoany sharethis social socials facebook twitter pinterest whatsapp "
    "related relatedposts recommend recommended recommendation recommendations recirc recirculation outbrain taboola zergnet "
    "trending popular mostread "
    "breadcrumb breadcrumbs crumbs pagination pager pagenavi paging nav navbar navigation menu menus submenu sidemenu toolbar "
    "topbar masthead footer foot colophon copyright sidebar sidebars widget widgets "
    "discussion livefyre "
    "tags taglist tagcloud hashtags categories byline bylines author authors authorbox dateline timestamp datetime pubdate "
    "skip skiplink login signin register search searchform modal popup overlay lightbox tooltip dropdown "
    "carousel slideshow gallery rating ratings vote votes poll jp toc-toggle editsection noprint navbox catlinks toolbox"
)
UNLIKELY = frozenset(UNLIKELY_NAMES.split())
SECTION_NAMES = (  # words of headings, of which documentation makes the names of its sections
    "copyright author authors categories tags menu menus search login register signin print vote votes rating ratings poll "
    "discussion datetime timestamp gallery social navigation popup overlay tooltip dropdown banner banners promotion subscription "
    "subscriptions widget widgets cookie cookies replies facebook twitter ad"
)
NO_SECTION = UNLIKELY - frozenset(SECTION_NAMES.split())
UNLIKELY_TAGS = frozenset(("nav", "aside", "footer", "form", "menu", "dialog", "search", "noscript"))
UNLIKELY_ROLES = frozenset(
    ("navigation", "banner", "contentinfo", "complementary", "search", "dialog", "alertdialog", "menubar", "toolbar")
)
COMMENTS = frozenset(("comment", "comments", "commentlist", "respond", "replies", "disqus"))
ENOUGH = 400  # characters of running text
NEVER_NAMED = frozenset(("html", "body", "main", "article", "blockquote", "table", "tbody", "tr", "pre", "figure", "dl"))


def unlikely(page: Page, within: Sequence[float]) -> list[bool]:
    """For each element whether it, or one around it, is named as something that is no content.

    A name is not believed of what holds a large part of the page's text; comments often outweigh what they comment on, so their
    name is believed wherever there is something else to read.
    """
    found: list[bool] = []
    comments: list[int] = []
    total = rest = within[0]
    for i, element in enumerate(page.elements):
        if element.parent >= 0 and found[element.parent]:
            found.append(True)
            continue
        named = element.tag not in NEVER_NAMED and within[i] <= 0.4 * total and unlikely_name(element)
        found.append(named)
        inner = bool(comments) and i <= page.elements[comments[-1]].last
        if named:
            rest -= 0 if inner else within[i]
        elif not inner and element.tag not in NEVER_NAMED and not element.words.isdisjoint(COMMENTS):
            comments.append(i)
    written = sum(within[i] for i in comments)
    if rest - written >= ENOUGH or written <= 0.4 * total:
        for i in comments:
            for j in range(i, page.elements[i].last + 1):
                found[j] = True
    return found


def unlikely_name(element: Element) -> bool:
    """Whether an element is named as something that is no content."""
    names = UNLIKELY if element.tag != "section" else NO_SECTION
    return element.tag in UNLIKELY_TAGS or element.attributes.get("role") in UNLIKELY_ROLES or not element.words.isdisjoint(names)
