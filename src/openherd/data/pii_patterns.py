"""Personal data that has a form: e-mail, IP address, payment card, IBAN, telephone number, national id (paper 3.1.1).

Each finder looks cheaply for where something may stand (an "@", a group of digits) and judges those places alone; what has check
digits is checked. All groups of digits are found by one search. A group is one thing (card, national id or telephone), or several
that blanks alone keep apart: what is known for sure is taken out, and what stands before and behind it is a group again.

Telephone numbers are the hard part: many numbers look like one. One counts where it is written internationally and can exist;
where it is written as its country's numbers are (a trunk "0" and groups, or North America's 3-3-4) and exists in one of the
given regions; or where a word before it says so ("tel", "call", "mobile", ...), in twenty languages.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

import phonenumbers

from openherd.data.national_ids import CONTEXT_CHARACTERS, digit_id, letter_ids, luhn, tailed_id
from openherd.data.urls import is_known_suffix
from openherd.data.word_edges import LETTER, ends_free, plain_gaps, stands_free


class Span(NamedTuple):
    """A piece of text that is personal data: where, of which kind, and what exactly."""

    start: int
    end: int
    kind: str
    what: str = ""


LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}\Z")
DOMAIN = re.compile(
    r"@((?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8})(xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24}|[^\W\d_]{2,24})(?![A-Za-z0-9@]|_+[^\W_])"
)
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
        if local and (last := end_of_domain(text, place)):
            start = local.start() + len(local[0]) - len(local[0].lstrip(".!#$%&'*/=?^`{|}~-"))
            if start < place and text[place - 1] != ".":
                end = last
                yield Span(start, end, "email")
        place = text.find("@", place + 1)
    if any(sign in text for sign in ("[at]", "(at)", "[AT]", "(AT)", "[ at", "( at", "(@", "[@", "{at", "<at", "arroba", "chez]")):
        yield from (Span(match.start(), match.end(), "email", "veiled") for match in VEILED.finditer(text))


def end_of_domain(text: str, at: int) -> int:
    """Where the domain behind an "@" ends, without the sentence that begins right behind its full stop; 0 where there is none."""
    domain = DOMAIN.match(text, at)
    while domain:
        shorter = DOMAIN.match(text, at, domain.start(2) - 1)
        if is_known_suffix(domain[2]):
            begins = domain[2].istitle() and domain[1].islower() and shorter and is_known_suffix(shorter[2])
            return shorter.end() if shorter and begins else domain.end()
        domain = shorter
    return 0


# Patterns begin with what is rare in a text, so that the search skips the rest; what must not stand before is asked afterwards.
# Behind an address a sentence may begin without a blank; a file's name or a version goes on.
IPV4 = re.compile(
    rf"\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?!_*{LETTER})(?!\.(?:[\da-z]|(?:Final|GA|RELEASE|SNAPSHOT|Alpha|Beta|M|RC|CR|SP|SR)\d*\b))"
)
IPV6 = re.compile(rf"[23][0-9A-Fa-f]{{3}}:[0-9A-Fa-f:]{{2,34}}(?::(?:\d{{1,3}}\.){{3}}\d{{1,3}})?(?!_*{LETTER}|:)")
IPV6_ANY = re.compile(rf"(?<!{LETTER})[0-9A-Fa-f]{{0,4}}:[0-9A-Fa-f:]{{1,34}}(?::(?:\d{{1,3}}\.){{3}}\d{{1,3}})?(?!_*{LETTER}|:)")
NAMED = re.compile(r"(?<![\w:])(?=\w*[g-zG-Z])\w+:\Z")  # "IPv6:", which is no part of an address
VERSION = re.compile(r"(?:\bv|version|release|update|build|section|§|\bfile)[ .:]{0,3}\Z", re.IGNORECASE)


def find_ips(text: str, only_public: bool = True) -> Iterator[Span]:
    """IP addresses, of the public internet alone where asked; not the numbers of versions, which look alike."""
    for match in (*IPV4.finditer(text), *(IPV6 if only_public else IPV6_ANY).finditer(text)):
        written = match[0] if match[0].endswith("::") else match[0].rstrip(":")
        is_named = ":" in written and NAMED.search(text, max(0, match.start() - 16), match.start())
        if not is_named and not stands_free(text, match.start(), ".:" if ":" in written else "."):
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
    text = plain_gaps(text)
    for match in IBAN_DIGITS.finditer(text):
        start = match.start() - 2
        length = IBAN_LENGTHS.get(text[max(start, 0) : start + 2].upper())
        if not length or not stands_free(text, start):
            continue
        compact, place = "", start
        while place < len(text) and len(compact) < length:
            character = text[place]
            if character.isascii() and character.isalnum():
                compact += character
            elif character not in " -" or not text[place - 1].isalnum():
                break
            place += 1
        if len(compact) == length and ends_free(text, place):
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
    r"(?<!\d)(?<!\d\.)(?<!\b0,)(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{4,5})(?!\d|\.\d)"
)
CARD_REST = re.compile(r"[ -]\d{1,3}(?!\d|[./-]\d)")  # of those of 17 to 19 digits; or what is printed beside a card of 16
TABLE = re.compile(r"\d{4}[ -]\d{4}[ -]\Z")


def is_card(digits: str, has_word: bool) -> bool:
    """Whether digits are a payment card's: an issuer's prefix and length, and Luhn's check."""
    fits = any(
        len(digits) in lengths and prefix.match(digits) and (has_word or not needs) for prefix, lengths, needs in CARD_ISSUERS
    )
    return fits and len(set(digits)) > 1 and luhn(digits)


# What one search finds: digits, and what people put between and around them.
MOST_DIGITS = 400  # of a group: its time grows with their square
LONGEST_NUMBER = 40  # characters of one thing in a group
NUMBER = re.compile(rf"[+(\d](?:[ .()/–-]{{0,3}}\d){{5,{MOST_DIGITS}}}")
TAIL = re.compile(r"[ -]?[A-Z](?:\d{3}[\dA-Y])?(?!\w)|-[kK](?!\w)|(?<=\d{6})[A-FU-Y]\d{3}[\dA-Y](?!\w)")
BETWEEN = re.compile(r" [/–-] |  +")
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
DATE = re.compile(rf"(?:{_YEAR}([-/. ]){_MONTH}\1{_DAY}|{_DAY}([-/.]){_DAY}\2(?:{_YEAR}|\d\d))(?![\d/.-]*\d[-/.]\d)")
LONE_DATE = re.compile(rf"(?<![\w.,/-])(?:{_YEAR}([-/.]){_MONTH}\1{_DAY}|{_DAY}([-/.]){_DAY}\2{_YEAR})(?![\w/-]|[.,]\d)")
LIST_MARK = re.compile(r"\(?\d{1,2}[.)] ")
SENTENCE = re.compile(r"(?<![\w.])(?:[^\W\d_a-z][^\W\d_]{1,18}|(?i:tel|fax|mob|ph|no|nr))\.\Z")
HEXADECIMAL = re.compile(r"[a-f][\da-f]*(?!\w)", re.IGNORECASE)
TIME = re.compile(r"\d:\d\d ")
EXTENSION = re.compile(r"\s?(?:x|ext\.?|extension|durchwahl|poste|int\.?)\s?\d{1,6}(?!\w)", re.IGNORECASE)
# Written as nothing else is: North America's 3-3-4, and an area code in parentheses.
UNMISTAKABLE = re.compile(
    r"(?:1[ .-]?)?[2-9]\d\d([.-])\d{3}\1\d{4}|(?:1[ .-]?)?\((?!(?:19|20)\d\d\))\d{2,5}\)[ -]?\d{3,5}[ .-]\d{3,4}"
)
ALONE = r"(?<!\d)(?<!\d[./)–-])(?:{})(?!\d|[./–-]\d)"  # within a group, kept apart from the rest by a blank
LONE_PHONE, LONE_ID = re.compile(ALONE.format(UNMISTAKABLE.pattern)), re.compile(ALONE.format(r"\d[\d./-]{7,}\d"))
DECIMAL = re.compile(r"\+?[1-9]\d*[./]\d+|\d{1,3}\.\d+(?: +\d{1,3}\.\d+)+")  # or a fraction, or a row of decimals
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
    """Cards, national ids and telephone numbers among the groups of digits of a text."""
    groups = Groups(plain_gaps(text), frozenset(kinds), regions)
    place = 0
    while match := NUMBER.search(groups.text, place):
        start, place = groups.free_start(*match.span()), match.end()
        spans = list(groups.apart(start, groups.free_end(start, place)))
        is_cut = len(match[0]) >= MOST_DIGITS and n_digits(match[0]) >= MOST_DIGITS
        if is_cut and (again := groups.text.rfind(" ", match.start() + 1, place - LONGEST_NUMBER)) > 0:
            # It may be cut inside a number: its end is looked at again, with what follows.
            spans = [span for span in spans if span.start < again]
            place = max([again, *(span.end for span in spans)])
            groups.phone_end = max((span.end for span in spans if span.kind == "phone"), default=-100)
        yield from spans


def n_digits(text: str) -> int:
    """How many digits a text has."""
    return sum(character.isdigit() for character in text)


Cut = tuple[int, int, Span | None]  # what is taken out of a group: from where to where, and what it is; None: nothing looked for


@dataclass
class Groups:
    """Takes the groups of digits of one text apart, from left to right."""

    text: str
    wanted: frozenset[str]
    regions: tuple[str, ...]
    phone_end: int = -100  # of the last telephone number

    def free_start(self, start: int, end: int) -> int:
        """Where a group begins: behind its first blank where it hangs on a word, a fraction or a time; its end without one."""
        text = self.text
        before = text[start - 1] if start else " "
        if before.isspace():
            return start
        is_fraction = before == "." and not SENTENCE.search(text, max(0, start - 21), start)
        is_time = before == ":" and TIME.match(text, max(0, start - 2), end)
        if not is_fraction and not is_time and stands_free(text, start):
            return start
        blank = text.find(" ", start, end)
        return blank + 1 if blank >= 0 else end

    def free_end(self, start: int, end: int) -> int:
        """Where a group ends: before its last blank where a word hangs on it (not hexadecimal digits); its start without one."""
        text = self.text
        if ends_free(text, end) or any(form.match(text, end) for form in (TAIL, EXTENSION, HEXADECIMAL)):
            return end
        return max(start, text.rfind(" ", start, end))

    def apart(self, start: int, end: int) -> Iterator[Span]:
        """What a group of digits holds."""
        text = self.text
        while True:
            while start < end and not (text[start].isdigit() or text[start] == "+" or is_closed(text, start, end)):
                start += 1
            while start < end and not text[end - 1].isdigit():
                end -= 1
            if n_digits(text[start:end]) < FEWEST_DIGITS:
                return
            for find in (self.date, self.card, self.national_id, self.phone, self.part):
                if cut := find(start, end):
                    break
            else:
                return
            first, last, span = cut
            yield from self.apart(start, first)
            if span:
                yield span
                if span.kind == "phone":
                    self.phone_end = span.end
            start = last

    def date(self, start: int, end: int) -> Cut | None:
        """A date that stands by itself."""
        found = LONE_DATE.search(self.text, start, end)
        return (found.start(), found.end(), None) if found else None

    def card(self, start: int, end: int) -> Cut | None:
        """The first payment card. Far inside a row of numbers of four digits there is none, unless a word says so."""
        text, place = self.text, start
        while "card" in self.wanted and end - place >= 12 and (card := CARD_FORM.search(text, place, end)):
            place = card.start() + 1
            word = CARD_WORDS.search(text, max(0, card.start() - CONTEXT_CHARACTERS), card.start())
            if card[1] and not word and TABLE.search(text, max(start, card.start() - 10), card.start()):
                continue
            rest = CARD_REST.match(text, card.end(), end) if text[card.end() : card.end() + 1] == card[1] else None
            for last in (rest.end(), card.end()) if rest else (card.end(),):
                digits = "".join(c for c in text[card.start() : last] if c.isdigit())
                if is_card(digits, bool(word)) and ends_free(text, last):
                    return card.start(), last, Span(card.start(), last, "card")
        return None

    def national_id(self, start: int, end: int) -> Cut | None:
        """A national id: the group, perhaps with a letter behind it, or a part that has no blank."""
        text = self.text
        if "national_id" not in self.wanted:
            return None
        tail = TAIL.match(text, end)
        if tail and (rule := tailed_id(text, start, tail.end())):
            return start, tail.end(), Span(start, tail.end(), "national_id", rule.name)
        for first, last in ((start, end), *(found.span() for found in LONE_ID.finditer(text, start, end))):
            if ends_free(text, last) and (rule := digit_id(text, first, last)):
                return first, last, Span(first, last, "national_id", rule.name)
        return None

    def phone(self, start: int, end: int) -> Cut | None:
        """The group as a telephone number with its extension."""
        text = self.text
        if "phone" not in self.wanted:
            return None
        extension = EXTENSION.match(text, end)
        if not (extension or ends_free(text, end)) or not is_phone(text, start, end, self.regions, start - self.phone_end < 8):
            return None
        last = extension.end() if extension else end
        return start, last, Span(start, last, "phone")

    def part(self, start: int, end: int) -> Cut | None:
        """One thing that blanks keep apart from the rest of a group, or only where to cut."""
        text = self.text
        is_long = n_digits(text[start:end]) > LONGEST_PHONE
        if is_long and (gap := BETWEEN.search(text, start, end)):
            return gap.start(), gap.end(), None
        if (opened := text.find("(", start + 1, end)) > 0 and not is_closed(text, opened, end):
            return opened, opened + 1, None
        for found in LONE_PHONE.finditer(text, start, end):
            if phone := self.phone(*found.span()):
                return phone
        if mark := LIST_MARK.match(text, start, end):
            return start, mark.end(), None
        is_international = text.startswith(("+", "(+", "00"), start)
        if is_international or (
            is_long and (start - self.phone_end < 8 or PHONE_WORDS.search(text, max(0, start - PHONE_CONTEXT), start))
        ):
            blanks = [place for place in range(end - 1, start, -1) if text[place] == " "]
            if text[start] == "0":  # so begins what follows, most likely
                blanks.sort(key=lambda place: text[place + 1] != "0")
            for blank in blanks:
                digits = "".join(c for c in text[start:blank] if c.isdigit())
                if (is_international or exists_in(digits, self.regions)) and (phone := self.phone(start, blank)):
                    return phone
        return None


def is_closed(text: str, start: int, end: int) -> bool:
    """Whether a parenthesis stands at a place and is closed before another opens."""
    opened, closed = text.find("(", start + 1, end), text.find(")", start, end)
    return text[start] == "(" and closed > 0 and not 0 < opened < closed


def find_letter_ids(text: str) -> Iterator[Span]:
    """National ids that begin with a letter."""
    return (Span(start, end, "national_id", rule.name) for start, end, rule in letter_ids(text))
