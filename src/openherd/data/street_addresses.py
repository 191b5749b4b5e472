"""Street addresses by how they are written (paper 3.1.1 names personal data and no more).

Each number of up to six digits is looked at with the words beside it: behind it a street as English writes it ("12 Long Lane"),
    before
it one as most of Europe does ("Lange Straße 12", "rue de la Paix 3", "Kirchgasse 7a"), or the word for a box,
    a flat or a suite. What
belongs to it joins: flat, postcode, state, town on the same or the next line. A street without a number, a town alone and a
postcode
alone are not found: they are nobody's address.
"""

import re
from collections.abc import Iterator

from openherd.data.pii_patterns import Span

NUMBER = re.compile(r"\d{1,6}(?:[-/]\d{1,4})?[A-Za-z]?(?![\w%$€£:=*+/]|[.,]\d)")
CAPITALISED = r"[^\W\d_a-z][\w'’.-]{0,30}"
NAME = rf"(?:{CAPITALISED}|of|the|de|la|del|du|van|von|den|der)"
SMALL = r"(?:(?:de|du|des|da|do|dos|das|del|della|dei|di|la|le|les|las|los|el|aux|à|et|e|y|en|sur|am|an|der|den|dem)[ ]|[dl]['’])"
STREET_WORDS = (
    "street|st|avenue|ave|av|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|square|sq|terrace|ter|way|circle|cir|parkway|pkwy"
    "|highway|hwy|crescent|cres|close|grove|trail|trl|alley|row|walk|gardens|mews|plaza|turnpike|pike|loop|expressway|causeway|quay"
)
ORDINAL = r"\d{1,3}(?:st|nd|rd|th)"
SIDE = r"(?:[NSEW]{1,2}\.?|North|South|East|West)"
ENGLISH = re.compile(
    rf"(?:[ ]\d{{1,5}})?[ ](?:{SIDE}[ ])?(?:(?:{NAME}|{ORDINAL})[ ]){{0,4}}?(?:{CAPITALISED}|{ORDINAL})[ ]"
    rf"(?i:{STREET_WORDS})\b\.?(?:[ ]{SIDE}\b)?"
)
FRENCH_BEHIND = re.compile(
    rf",?[ ](?:bis[ ]|ter[ ])?(?i:rue|avenue|av\.|boulevard|bd\.?|place|chemin|allée|impasse|quai|route|cours|passage|square)[ ]"
    rf"(?:{SMALL}|{CAPITALISED}[ ]){{0,4}}?{CAPITALISED}"
)
FIRST = (
    "rua|avenida|av\\.|travessa|praça|largo|estrada|rodovia|calle|c/|paseo|plaza|carrera|camino|ronda|via|viale|corso|piazza|piazzale|vicolo|largo"
    "|strada|rue|chemin|avenue|boulevard|place|ul\\.|ulica|aleja|al\\.|plac|улица|ул\\.|проспект|пр\\.|str\\.|strada|bulevardul|οδός|leof\\.|jalan|jl\\."
)
LAST = (
    "straße|strasse|str\\.|weg|gasse|platz|allee|damm|ufer|steig|chaussee|graben|straat|laan|plein|gracht|kade|dijk|singel|hof|hove"
    "|gatan|gata|vägen|väg|torget|gränd|vej|vejen|gade|gaden|allé|plads|stræde|gate|gaten|veien|vei|vegen|terrasse|katu|tie|kuja|polku|puistotie"
    "|stræti|straeti|gata|braut|utca|út|útja|tér|körút|köz|u\\.|ulice|náměstí|třída|ulica|cesta|trg|tänav|maantee|puiestee|iela|gatvė"
)
LAST_WORD = re.compile(rf"\w*(?:{LAST}),?", re.IGNORECASE)
BEFORE = re.compile(
    rf"(?:\d{{1,6}}[ ])?(?:\b(?i:{FIRST})[ ](?:{SMALL}|{CAPITALISED}[ ]){{0,4}}?{CAPITALISED}"
    rf"|(?:{CAPITALISED}[ ]){{0,3}}{CAPITALISED}?[ ]?(?i:{LAST}))"
    r",?[ ](?i:nr\.?[ ]|no\.?[ ]|n[º°]\.?[ ]?)?\Z"
)
UNIT = re.compile(
    r"\b(?i:apt|apartment|suite|ste|p\.?[ ]?o\.?[ ]?box|postfach|psc[ ]\d+,?[ ]box|cmr[ ]\d+,?[ ]box|unit[ ]\d+,?[ ]box)\.?[ ]#?\Z"
)
# What follows an address: a flat; a town with state or postcode.
AND_UNIT = re.compile(r"[,]?\s{1,3}(?:apt|apartment|suite|ste|unit|flat|p\.?o\.?[ ]box)\.?[ ]#?[\w-]{1,6}", re.IGNORECASE)
POSTCODE = r"(?:[A-Z]{1,2}-?)?\d{4,5}(?:-\d{3,4})?|[A-Z]{1,2}\d[A-Z\d]?[ ]\d[A-Z]{2}|[A-Z]\d[A-Z][ ]\d[A-Z]\d|\d{3}[ ]\d{2}"
AND_TOWN = re.compile(
    rf"[,]?\s{{1,3}}(?:(?:{POSTCODE})[ ](?:{CAPITALISED}[ ]?){{1,3}}|(?:{CAPITALISED}[ ]?){{1,3}}"
    rf"\n?,?\s{{1,2}}(?:[A-Z]{{2,3}}[ ,]\s?)?(?:{POSTCODE})\b)"
)


def find_addresses(text: str) -> Iterator[Span]:
    """Street addresses and boxes, with flat, postcode and town where they follow; spans do not overlap."""
    done = 0
    for match in NUMBER.finditer(text):
        start, end = match.span()
        before = text[start - 1] if start else " "
        if start < done or before.isalnum() or before in "_.,:/$€£#%+*=-":
            continue
        if found := address_at(text, start, end, done):
            start, end = found
            for more in (AND_UNIT, AND_TOWN):
                if following := more.match(text, end):
                    end = following.end()
            end = start + len(text[start:end].rstrip(" ,\n"))
            yield Span(start, end, "address")
            done = end


def address_at(text: str, start: int, end: int, done: int) -> tuple[int, int] | None:
    """The street or box that the number at text[start:end] belongs to."""
    behind = text[end : end + 3]
    if behind[:1] == " " and (behind[1:2].isupper() or behind[1:2].isdigit()) and (street := ENGLISH.match(text, end)):
        return start, street.end()
    if behind[:1] in (" ", ",") and (street := FRENCH_BEHIND.match(text, end)):
        return start, street.end()
    if text[start - 1 : start] not in (" ", "#") or text[start - 2 : start - 1] in ("", " "):
        return None
    before = max(done, start - 60)
    if box := UNIT.search(text, max(before, start - 24), start):
        return box.start(), end
    words = text[before:start].rpartition("\n")[2].split()
    if (
        words
        and (words[-1][0].isupper() or LAST_WORD.fullmatch(words[-1]) or words[-1].lower() in ("nr", "nr.", "no.", "nº"))
        and (street := BEFORE.search(text, before, start))
    ):
        return street.start(), end
    return None
