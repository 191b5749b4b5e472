"""Personal data that has a form: e-mail, IP address, payment card, IBAN, telephone number, national id (paper 3.1.1).

Each finder looks cheaply for where something may stand (an "@", a group of digits) and judges those places alone; what has check
digits is checked. All groups of digits are found by one search, and each is at most one thing: card, national id or telephone.

Telephone numbers are the hard part: many numbers look like one. One counts where it is written internationally and can exist;
where it is written as its country's numbers are (a trunk "0" and groups, or North America's 3-3-4) and exists in one of the
given regions; or where a word before it says so ("tel", "call", "mobile", ...), in twenty languages.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

import phonenumbers

from openherd.data.national_ids import CONTEXT_CHARACTERS, digit_id, letter_ids, luhn, tailed_id
from openherd.data.urls import is_known_suffix


class Span(NamedTuple):
    """A piece of text that is personal data: where, of which kind, and what exactly."""

    start: int
    end: int
    kind: str
    what: str = ""


LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}\Z")
DOMAIN = re.compile(r"@((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_][\w-]{1,23})(?![\w@-])")
VEILED = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}\s?[\[({<]\s?(?:at|@|arroba|chez)\s?[\])}>]\s?[\w-]{1,63}"
    r"(?:\s?(?:[\[({<]\s?(?:dot|punkt|point|punto|ponto)\s?[\])}>]|\.)\s?[\w-]{2,63}){1,4}(?![\w-])",
    re.IGNORECASE,
)


def find_emails(text: str) -> Iterator[Span]:
    """E-mail addresses whose last label is a top-level domain, and veiled ones ("ann [at] example [dot] org")."""
    end = 0
    place = text.find("@")
    while place >= 0:
        local = LOCAL.search(text, max(end, place - 64), place)
        domain = DOMAIN.match(text, place)
        if local and domain and is_known_suffix(domain[1].rpartition(".")[2]):
            start = local.start() + len(local[0]) - len(local[0].lstrip(".!#$%&'*/=?^`{|}~-"))
            if start < place and text[place - 1] != ".":
                end = domain.end()
                yield Span(start, end, "email")
        place = text.find("@", place + 1)
    if any(sign in text for sign in ("[at]", "(at)", "[AT]", "(AT)", "[ at", "( at", "(@", "[@", "{at", "<at", "arroba", "chez]")):
        yield from (Span(match.start(), match.end(), "email", "veiled") for match in VEILED.finditer(text))


# Patterns begin with what is rare in a text, so that the search skips the rest; what must not stand before is asked afterwards.
IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?::(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
IPV6_ANY = re.compile(r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{1,34}(?::(?:\d{1,3}\.){3}\d{1,3})?(?![\w:])")
VERSION = re.compile(r"(?:\bv|version|release|update|build|section|§|\bfile)[ .:]{0,3}\Z", re.IGNORECASE)


def stands_free(text: str, start: int, signs: str) -> bool:
    """Whether neither a letter, digit or "_" nor one of the signs stands before a place."""
    before = text[start - 1] if start else " "
    return not (before.isalnum() or before == "_" or before in signs)


def find_ips(text: str, only_public: bool = True) -> Iterator[Span]:
    """IP addresses, of the public internet alone where asked; not the numbers of versions, which look alike."""
    for match in (*IPV4.finditer(text), *(IPV6 if only_public else IPV6_ANY).finditer(text)):
        written = match[0] if match[0].endswith("::") else match[0].rstrip(":")
        if not stands_free(text, match.start(), ".:" if ":" in written else "."):
            continue
        if VERSION.search(text, max(0, match.start() - 12), match.start()):
            continue
        try:
            address = ip_address(written)
        except ValueError:
            continue
        if not address.is_unspecified and ((address.is_global and not address.is_multicast) or not only_public):
            yield Span(match.start(), match.start() + len(written), "ip")


# Lengths of IBANs by country (SWIFT's registry, release 99).
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20,
    "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18,
    "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31,
    "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29,
    "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
IBAN_DIGITS = re.compile(r"\d\d(?=[ -]?[A-Za-z0-9]{4})")  # the check digits, behind the country


def find_ibans(text: str) -> Iterator[Span]:
    """International bank account numbers: the country's length, and the remainder modulo 97 is one (ISO 13616)."""
    for match in IBAN_DIGITS.finditer(text):
        start = match.start() - 2
        length = IBAN_LENGTHS.get(text[max(start, 0) : start + 2].upper())
        if not length or not stands_free(text, start, ""):
            continue
        compact, place = "", start
        while place < len(text) and len(compact) < length:
            character = text[place]
            if character.isascii() and character.isalnum():
                compact += character
            elif character not in " -" or not text[place - 1].isalnum():
                break
            place += 1
        if len(compact) == length and not text[place : place + 1].isalnum():
            moved = compact[4:] + compact[:4]
            if int("".join(str(int(c, 36)) for c in moved)) % 97 == 1:
                yield Span(start, place, "iban")


# Issuers' first digits and lengths (ISO/IEC 7812; the issuers' own pages): Visa, Mastercard twice, American Express, Discover,
# Diners Club, JCB twice, UnionPay, Mir. All others (Maestro, whose prefixes take a tenth of all numbers; RuPay, Elo, Visa's old
# 13 digits) count only after a word that says that they are cards.
CARD_ISSUERS = (
    (re.compile(r"4"), {16, 18, 19}, False), (re.compile(r"5[1-5]"), {16}, False),
    (re.compile(r"2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), {16}, False), (re.compile(r"3[47]"), {15}, False),
    (re.compile(r"6011|64[4-9]|65"), {16, 17, 18, 19}, False), (re.compile(r"30[0-5]|309|36|3[89]"), {14, 15, 16}, False),
    (re.compile(r"35(?:2[89]|[3-8])"), {16, 17, 18, 19}, False), (re.compile(r"2131|1800"), {15}, False),
    (re.compile(r"62"), {16, 17, 18, 19}, False), (re.compile(r"220[0-4]"), {16, 17, 18, 19}, False),
    (re.compile(r"[1-68]"), {*range(12, 20)}, True),
)  # fmt: skip
CARD_WORDS = re.compile(
    r"card|\bcc\b|visa|maestro|amex|credit|debit|karte|carte|tarjeta|cart[ãa]o|carta|kaart|payment|kort|billing|कार्ड|บัตร",
    re.IGNORECASE,
)
CARD_FORM = re.compile(
    r"(?<!\d)(?<!\d[.,])(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})(?!\d)(?![.,]\d)"
)


def is_card(digits: str, has_word: bool) -> bool:
    """Whether digits are a payment card's: an issuer's prefix and length, and Luhn's check."""
    fits = any(
        len(digits) in lengths and prefix.match(digits) and (has_word or not needs) for prefix, lengths, needs in CARD_ISSUERS
    )
    return fits and len(set(digits)) > 1 and luhn(digits)


# What one search finds: digits, and what people put between and around them.
NUMBER = re.compile(r"[+(\d](?:[ .()/–-]{0,3}\d){5,}")
TAIL = re.compile(r"[ -]?[A-Z](?:\d{3}[\dA-Y])?(?!\w)|-[kK](?!\w)|(?<=\d{6})[A-FU-Y]\d{3}[\dA-Y](?!\w)")
BETWEEN = re.compile(r" [/–-] |  +")
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
DATE = re.compile(rf"(?:{_YEAR}([-/. ]){_MONTH}\1{_DAY}|{_DAY}([-/.]){_DAY}\2(?:{_YEAR}|\d\d))(?![\d/.-]*\d[-/.]\d)")
EXTENSION = re.compile(r"\s?(?:x|ext\.?|extension|durchwahl|poste|int\.?)\s?\d{1,6}(?!\w)", re.IGNORECASE)
# Written as nothing else is: North America's 3-3-4, and an area code in parentheses.
UNMISTAKABLE = re.compile(r"(?:1[ .-]?)?[2-9]\d\d([.-])\d{3}\1\d{4}|(?:1[ .-]?)?\(\d{2,5}\)[ -]?\d{3,5}[ .-]\d{3,4}")
DECIMAL = re.compile(r"\+?[1-9]\d*[./]\d+")  # or a fraction
DIFFERENCE = re.compile(r"[1-9].* [–-] .*|.*\)\(.*")  # or a product
TRUNK = re.compile(r"\(?0\d{1,5}\)?(?:[ ./-]{1,3}\d{2,8}){1,5}|0\d{1,2}(?:[ .-]\d\d){3,5}")
PHONE_FORM = re.compile(r"(?:\+|00[ -]?)?\(?\+?\d{1,7}\)?(?:[ ./–-]{0,3}\(?\d{1,9}\)?){0,7}")
PHONE_WORDS = re.compile(
    r"\b(?:tele?ph?on\w*|tel|tél\w*|tele?fax|ph|phones?|mobiles?|mob|cell(?:phone|ular[e]?)?|fax|call(?:ed|ing)?|dial|ring|sms"
    r"|whats ?app|signal|text(?:ed)? (?:me|us|to)|messages?(?: to)?|reach(?:ed)?|contact\w*|hotline|helpline|landline|pager"
    r"|switchboard|voicemail|desk|toll[- ]free|answering|registered|at the number|numbers? (?:is|are)"
    r"|(?:my|your|his|her|our|their|the|new|old|this|following) (?:\w+ )?numbers?"
    r"|handy|rufnummer|anruf\w*|mobil\w*|festnetz|durchwahl|portable|appele[rz]|numéro|numero|número|telefon\w*|teléfono"
    r"|telefone|móvil|celular\w*|llam\w+|ligu\w+|cellulare|chiama\w*|puhelin|puh|gsm|kontakt|telefoon|bel|tlf|sími|numer)\b"
    r"|☎|📞|📱|电话|電話|手机|携帯|전화|телефон|тел\b|моб\b|τηλ|โทร|फ़?ोन|هاتف|טל",
    re.IGNORECASE,
)
FEWEST_DIGITS = 6  # of a group that is looked at
PHONE_CONTEXT, PHONE_CONTEXT_BEHIND = 40, 25  # characters
SHORTEST_PHONE, LONG_PHONE, LONGEST_PHONE = 7, 9, 15  # digits; the most is E.164's
NOT_PHONE = re.compile(
    r"(?:isbn|issn|doi|order|invoice|serial|case|ticket|licen[cs]e|passport|zip|postcode|postal|account|acct|konto|page|pp|vol|model|part|item|sku|ref"
    r"|patent|#|№|[$€£¥₹]|usd|eur|gbp)[\w'’ .:#-]{0,14}\Z",
    re.IGNORECASE,
)
REGIONS = ("US", "GB", "DE", "FR", "IT", "ES", "PT", "BR", "IN", "TH")


@lru_cache(maxsize=4096)
def exists_in(number: str, regions: tuple[str, ...]) -> bool:
    """Whether a national number can be in use in one of the regions."""
    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(number, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


@lru_cache(maxsize=4096)
def is_possible(number: str) -> bool:
    """Whether an international number has a country's code and a length that the country uses."""
    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(number, None)))
    except phonenumbers.NumberParseException:
        return False


def is_phone(text: str, start: int, end: int, regions: tuple[str, ...] = REGIONS, is_next: bool = False) -> bool:
    """Whether text[start:end] is a telephone number, by its form, its digits and what stands before it; `is_next` after another."""
    written = text[start:end]
    digits = "".join(c for c in written if c.isdigit())
    if (
        not SHORTEST_PHONE <= len(digits) <= LONGEST_PHONE
        or not PHONE_FORM.fullmatch(written)
        or DATE.match(written)
        or written.count("(") != written.count(")")
    ):
        return False
    if DECIMAL.fullmatch(written) or DIFFERENCE.fullmatch(written):
        return False
    if written[0] == "+" or written[:2] == "(+":
        return is_possible("+" + digits.replace("0", "", 1) if "(0)" in written else "+" + digits)
    before = text[max(0, start - PHONE_CONTEXT) : start]
    if NOT_PHONE.search(before):
        return False
    if is_next or PHONE_WORDS.search(before):
        return True
    if UNMISTAKABLE.fullmatch(written) or EXTENSION.match(text, end) or PHONE_WORDS.search(text, end, end + PHONE_CONTEXT_BEHIND):
        return True
    if digits[:2] == "00" and len(digits) >= 10:
        return is_possible("+" + digits[2:].replace("0", "", 1) if "(0)" in written else "+" + digits[2:])
    is_alone = not before.rpartition("\n")[2].strip() and not text[end : end + 20].partition("\n")[0].strip()
    return bool(TRUNK.fullmatch(written) or (is_alone and " " in written and len(digits) >= LONG_PHONE)) and exists_in(
        digits, regions
    )


def find_numbers(text: str, kinds: Iterable[str], regions: tuple[str, ...] = REGIONS) -> Iterator[Span]:
    """Cards, national ids and telephone numbers among the groups of digits of a text, each group as one of them."""
    wanted = frozenset(kinds)
    phone_end = -100
    for match in NUMBER.finditer(text):
        start, end = free_start(text, *match.span()), match.end()
        if start == end:
            continue
        if "card" in wanted and end - start >= 12 and (cards := list(find_cards(text, start, end))):
            yield from cards
            continue
        tail = TAIL.match(text, end)
        if "national_id" in wanted:
            rule = tailed_id(text, start, tail.end()) if tail else digit_id(text, start, end)
            if rule:
                yield Span(start, tail.end() if tail else end, "national_id", rule.name)
                continue
        if "phone" in wanted:
            for begin, last in pieces(text, start, end):
                is_open = text[begin] == "(" and text.count("(", begin, last) > text.count(")", begin, last)
                first = begin + is_open
                extension = EXTENSION.match(text, last)
                if (text[last : last + 1].isalnum() and not extension) or text[last : last + 1] == "_":
                    continue
                if is_phone(text, first, last, regions, first - phone_end < 8):
                    phone_end = extension.end() if extension else last
                    yield Span(first, phone_end, "phone")


def free_start(text: str, start: int, end: int) -> int:
    """Where a group of digits begins that does not hang on a word: behind its first blank where it does; its end where nowhere."""
    if stands_free(text, start, "."):
        return start
    blank = text.find(" ", start, end)
    while 0 <= blank < end - 1 and not (text[blank + 1].isdigit() or text[blank + 1] in "(+"):
        blank += 1
    return blank + 1 if blank >= 0 and sum(c.isdigit() for c in text[blank + 1 : end]) >= FEWEST_DIGITS else end


def find_cards(text: str, start: int, end: int) -> Iterator[Span]:
    """Payment cards within a group of digits."""
    for card in CARD_FORM.finditer(text, start, end):
        word = CARD_WORDS.search(text, max(0, card.start() - CONTEXT_CHARACTERS), card.start())
        if is_card("".join(c for c in card[0] if c.isdigit()), bool(word)) and not text[card.end() : card.end() + 1].isalnum():
            yield Span(card.start(), card.end(), "card")


def pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A group of digits, cut at wide gaps where it is too long for one telephone number."""
    if sum(c.isdigit() for c in text[start:end]) <= LONGEST_PHONE:
        yield start, end
        return
    for gap in BETWEEN.finditer(text, start, end):
        yield start, gap.start()
        start = gap.end()
    yield start, end


def find_letter_ids(text: str) -> Iterator[Span]:
    """National ids that begin with a letter."""
    return (Span(start, end, "national_id", rule.name) for start, end, rule in letter_ids(text))
