"""Numbers by which states know people, each with its own check (paper 3.1.1 names personal data and no more).

A number counts where its written form and its check digits are right. Forms that other numbers share (a plain row of eleven
digits) count only after a word that says what they are, in `context`. The checks are the issuers' published ones; the tests hold
them against python-stdnum, which is written by others. Where an id has no check digits, its form and ranges are all there is.
"""

import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from openherd.data.word_edges import ends_free, stands_free

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CONTEXT_CHARACTERS = 60


def values(text: str) -> list[int]:
    """Digits as numbers, letters as 10 to 35."""
    return [int(character, 36) for character in text]


def weighted(text: str, weights: Sequence[int]) -> int:
    """The sum of a text's digits, each times its weight."""
    return sum(value * weight for value, weight in zip(values(text), weights, strict=False))


def luhn(digits: str) -> bool:
    """Whether the Luhn sum of digits is a multiple of ten (ISO/IEC 7812)."""
    total = 0
    for place, value in enumerate(reversed(values(digits))):
        doubled = value * 2 if place % 2 else value
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


VERHOEFF = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043",
    "8765932104", "9876543210",
)  # fmt: skip
VERHOEFF_PLACES = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def verhoeff(digits: str) -> bool:
    """Whether the Verhoeff check of digits is right."""
    state = "0"
    for place, digit in enumerate(reversed(digits)):
        state = VERHOEFF[int(state)][int(VERHOEFF_PLACES[place % 8][int(digit)])]
    return state == "0"


def mod_11_10(digits: str) -> bool:
    """Whether the ISO/IEC 7064 MOD 11,10 check of digits is right."""
    product = 10
    for digit in digits[:-1]:
        total = (int(digit) + product) % 10 or 10
        product = 2 * total % 11
    return (product + int(digits[-1])) % 10 == 1


def is_date(year: int, month: int, day: int) -> bool:
    """Whether there is such a day."""
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def is_short_date(digits: str, order: str) -> bool:
    """Whether six digits are a day of some century; `order` is "ymd" or "dmy"."""
    parts = dict(zip(order, (int(digits[i : i + 2]) for i in (0, 2, 4)), strict=True))
    return any(is_date(century + parts["y"], parts["m"], parts["d"]) for century in (1900, 2000))


def us_ssn(n: str) -> bool:
    """No area 000 or 666; areas from 900 on are taxpayer numbers (ITIN), with groups of their own."""
    area, group, serial = int(n[:3]), int(n[3:5]), int(n[5:])
    if area >= 900:
        return group in {*range(50, 66), *range(70, 89), *range(90, 93), *range(94, 100)}
    return area not in (0, 666) and group > 0 and serial > 0


def br_cpf(n: str) -> bool:
    """Two check digits, each 11 minus the weighted sum of those before."""
    checks = [(-weighted(n[:i], range(i + 1, 1, -1))) % 11 % 10 for i in (9, 10)]
    return len(set(n)) > 1 and checks == values(n[9:])


def cl_rut(n: str) -> bool:
    """The last character is 11 minus the sum weighted 2 to 7 from the right; K is ten."""
    total = weighted(n[:-1][::-1], [2, 3, 4, 5, 6, 7] * 2)
    return "0123456789K"[-total % 11] == n[-1]


def fr_nir(n: str) -> bool:
    """97 minus the number modulo 97. Those of Corsica, with a letter in them, are not looked for."""
    return (int(n[3:5]) in range(1, 13) or int(n[3:5]) >= 20) and 97 - int(n[:13]) % 97 == int(n[13:])


def es_dni(n: str) -> bool:
    """The letter is the number modulo 23; X, Y and Z before it are 0, 1 and 2."""
    number = n[:-1]
    number = str("XYZ".index(number[0])) + number[1:] if number[0] in "XYZ" else number
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == n[-1]


IT_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def it_codice_fiscale(n: str) -> bool:
    """The last letter is the sum of odd places by a table and of even places as they are."""

    def value(character: str) -> int:
        return int(character) if character.isdigit() else LETTERS.index(character)

    total = sum(IT_ODD[value(c)] if place % 2 == 0 else value(c) for place, c in enumerate(n[:15]))
    return LETTERS[total % 26] == n[15]


def de_steuer_id(n: str) -> bool:
    """One digit twice or thrice among the first ten, and the ISO 7064 check."""
    counts = sorted(n[:10].count(digit) for digit in set(n[:10]))
    return n[0] != "0" and counts[-1] in (2, 3) and counts[-2] == 1 and mod_11_10(n)


def be_nrn(n: str) -> bool:
    """97 minus the nine digits modulo 97; of people born from 2000 on with a 2 before."""
    return any(97 - int(prefix + n[:9]) % 97 == int(n[9:]) for prefix in ("", "2")) and int(n[2:4]) % 20 <= 12


def se_personnummer(n: str) -> bool:
    """A day (coordination numbers add 60) and Luhn over the last ten digits."""
    n = n[-10:]
    day = int(n[4:6])
    return is_short_date(n[:4] + f"{day - 60 if day > 60 else day:02}", "ymd") and luhn(n)


def no_fodselsnummer(n: str) -> bool:
    """Two check digits modulo 11; D-numbers add 40 to the day."""
    return (
        is_short_date(f"{int(n[:2]) % 40:02}{n[2:6]}", "dmy")
        and weighted(n, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and weighted(n, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def fi_hetu(n: str) -> bool:
    """The last character is the nine digits modulo 31."""
    digits = n[:6] + n[7:10]
    return is_short_date(n[:6], "dmy") and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == n[10]


def cz_rodne_cislo(n: str) -> bool:
    """The first nine digits modulo 11, where ten is written 0; the months of women have 50 more, others 20 or 70."""
    return int(n[2:4]) % 50 % 20 in range(1, 13) and int(n[4:6]) in range(1, 32) and int(n[:9]) % 11 % 10 == int(n[9])


def kr_rrn(n: str) -> bool:
    """A day and a check digit modulo 11."""
    return is_short_date(n[:6], "ymd") and (11 - weighted(n[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10 == int(n[12])


def cn_id(n: str) -> bool:
    """A day and ISO 7064 MOD 11-2; X is ten."""
    weights = [2**i % 11 for i in range(17, 0, -1)]
    return is_date(int(n[6:10]), int(n[10:12]), int(n[12:14])) and "10X98765432"[weighted(n[:17], weights) % 11] == n[17]


TW_LETTERS = "ABCDEFGHJKLMNPQRSTUVXYWZIO"


def tw_id(n: str) -> bool:
    """The letter is a number of two digits, from 10 on; the weighted sum is a multiple of ten."""
    first = TW_LETTERS.index(n[0]) + 10
    return (first // 10 + first % 10 * 9 + weighted(n[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1))) % 10 == 0


def sg_nric(n: str) -> bool:
    """The last letter is the weighted sum modulo 11 by the series' own table."""
    total = weighted(n[1:8], (2, 7, 6, 5, 4, 3, 2)) + {"T": 4, "G": 4, "M": 3}.get(n[0], 0)
    table = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "XWUTRQPNJLK"}[n[0]]
    return (table[10 - total % 11] if n[0] == "M" else table[total % 11]) == n[8]


def mx_curp(n: str) -> bool:
    """A day and a check digit over all characters, where Ñ follows N."""
    alphabet = "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ"
    total = sum(alphabet.index(c) * (18 - place) for place, c in enumerate(n[:17]))
    return is_short_date(n[4:10], "ymd") and -total % 10 == int(n[17])


def gb_nhs(n: str) -> bool:
    """The last digit is 11 minus the sum weighted 10 to 2."""
    return -weighted(n[:9], range(10, 1, -1)) % 11 == int(n[9])


def ar_cuit(n: str) -> bool:
    """11 minus the weighted sum, ten written 9; of people the first two digits are 20, 23, 24 or 27."""
    return n[:2] in ("20", "23", "24", "27") and "01234567899"[-weighted(n[:10], (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11] == n[10]


def tr_kimlik(n: str) -> bool:
    """Two check digits."""
    d = values(n)
    return d[0] > 0 and (7 * sum(d[:9:2]) - sum(d[1:8:2])) % 10 == d[9] and sum(d[:10]) % 10 == d[10]


def za_id(n: str) -> bool:
    """A day and Luhn."""
    return is_short_date(n[:6], "ymd") and n[10] in "01" and luhn(n)


def ro_cnp(n: str) -> bool:
    """A day and a check digit modulo 11, ten written 1."""
    return is_short_date(n[1:7], "ymd") and "01234567891"[weighted(n[:12], (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11] == n[12]


def ie_pps(n: str) -> bool:
    """The letter is the weighted sum modulo 23; a second letter counts nine times."""
    second = LETTERS.index(n[8]) + 1 if len(n) > 8 and n[8] != "W" else 0
    return ("W" + LETTERS)[(weighted(n[:7], range(8, 1, -1)) + 9 * second) % 23] == n[7]


@dataclass(frozen=True)
class NationalId:
    """One kind of number: how it is written, its check on the characters without separators, words that must stand before."""

    name: str
    form: str
    check: Callable[[str], bool] = lambda n: True
    context: str = ""  # a regular expression, without regard to case; empty: the form and the check are enough


# Forms of digits alone, asked of each group of digits in a text.
DIGIT_IDS = (
    NationalId("US social security", r"(\d{3})([- ])\d{2}\2\d{4}", us_ssn),
    NationalId("US social security, plain", r"\d{9}", us_ssn, r"\bssn\b|social security|\bitin\b"),
    NationalId("Canada SIN", r"\d{3}([- ]?)\d{3}\1\d{3}", lambda n: n[0] not in "08" and luhn(n),
        r"\bsin\b|\bnas\b|social insurance|assurance sociale"),
    NationalId("UK NHS", r"\d{3}([- ]?)\d{3}\1\d{4}", gb_nhs, r"\bnhs\b"),
    NationalId("Brazil CPF", r"\d{3}\.\d{3}\.\d{3}-\d{2}", br_cpf),
    NationalId("Brazil CPF, plain", r"\d{11}", br_cpf, r"\bcpf\b"),
    NationalId("France NIR", r"[12][ .]?\d\d[ .]?\d\d[ .]?\d\d[ .]?\d{3}[ .]?\d{3}[ .-]?\d\d", fr_nir,
        r"s[ée]curit[ée] sociale|\bnir\b|\binsee\b|\bn[°o] ?s[ée]cu"),
    NationalId("Germany tax id", r"\d\d ?\d{3} ?\d{3} ?\d{3}", de_steuer_id, r"steuer|\bidnr\b|tax[- ]id"),
    NationalId("Netherlands BSN", r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}", lambda n: weighted(n, (9, 8, 7, 6, 5, 4, 3, 2,
        -1)) % 11 == 0, r"\bbsn\b|burgerservice|sofinummer"),
    NationalId("Belgium national register", r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", be_nrn),
    NationalId("Poland PESEL", r"\d{11}", lambda n: weighted(n, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0, r"\bpesel\b"),
    NationalId("Sweden personnummer", r"(?:19|20)?\d{6}[-+]\d{4}", se_personnummer),
    NationalId("Sweden personnummer, plain", r"(?:19|20)?\d{10}", se_personnummer, r"personn|samordningsn"),
    NationalId("Norway fødselsnummer", r"\d{6} ?\d{5}", no_fodselsnummer, r"f[øo]dsels|personn|\bd-nummer"),
    NationalId("Denmark CPR", r"\d{6}-?\d{4}", lambda n: is_short_date(n[:6], "dmy"), r"\bcpr\b|personn"),
    NationalId("Portugal NIF", r"\d{3} ?\d{3} ?\d{3}", lambda n: -weighted(n[:8], range(9, 1, -1)) % 11 % 10 == int(n[8]),
        r"\bnif\b|contribuinte"),
    NationalId("Switzerland AHV", r"756\.?\d{4}\.?\d{4}\.?\d{2}", lambda n: weighted(n, [1, 3] * 6 + [1]) % 10 == 0),
    NationalId("Czechia, Slovakia rodné číslo", r"\d{6}/\d{4}", cz_rodne_cislo),
    NationalId("Romania CNP", r"[1-8]\d{12}", ro_cnp, r"\bcnp\b|cod numeric"),
    NationalId("Turkey kimlik", r"\d{11}", tr_kimlik, r"kimlik|\bt\.?c\.?(?: no|:)"),
    NationalId("Israel identity", r"\d{9}", luhn, r"teudat|\bzehut|תעודת|\bת\.?ז"),
    NationalId("Argentina CUIT", r"\d\d-\d{8}-\d", ar_cuit),
    NationalId("India Aadhaar", r"[2-9]\d{3}([ -])\d{4}\1\d{4}", verhoeff),
    NationalId("India Aadhaar, plain", r"[2-9]\d{11}", verhoeff, r"aadhaar|aadhar|\buid(?:ai)?\b|आधार"),
    NationalId("Thailand identity", r"\d-\d{4}-\d{5}-\d\d-\d", lambda n: (11 - weighted(n[:12], range(13, 1,
        -1)) % 11) % 10 == int(n[12])),
    NationalId("Thailand identity, plain", r"\d{13}", lambda n: (11 - weighted(n[:12], range(13, 1,
        -1)) % 11) % 10 == int(n[12]), r"บัตรประชาชน|thai id|citizen id"),
    NationalId("South Korea RRN", r"\d{6}-[1-8]\d{6}", kr_rrn),
    NationalId("China resident identity", r"[1-9]\d{16}[\dX]", cn_id),
    NationalId("South Africa identity", r"\d{6} ?\d{4} ?\d{3}", za_id, r"\bid\b|identity|identiteit"),
    NationalId("Australia TFN", r"\d{3} ?\d{3} ?\d{3}", lambda n: weighted(n, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0,
        r"\btfn\b|tax file"),
)  # fmt: skip
# Forms with letters, looked for in the whole text; capitals alone, or every long word of a program would be looked at.
LETTER_IDS = (
    NationalId("UK national insurance", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]",
        lambda n: n[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")),
    NationalId("Spain NIE", r"[XYZ]-?\d{7}-?[A-Z]", es_dni),
    NationalId("Italy codice fiscale", r"[A-Z]{6}[\dLMNP-V]{2}[A-EHLMPRST][\dLMNP-V]{2}[A-Z][\dLMNP-V]{3}[A-Z]", it_codice_fiscale),
    NationalId("Mexico CURP", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[A-Z\d]\d", mx_curp),
    NationalId("India PAN", r"[A-Z]{3}P[A-Z]\d{4}[A-Z]"),
    NationalId("Taiwan identity", r"[A-Z][1289]\d{8}", tw_id),
    NationalId("Singapore NRIC", r"[STFGM]\d{7}[A-Z]", sg_nric),
)  # fmt: skip
# Digits with a letter behind or between.
TAILED_IDS = (
    NationalId("Spain DNI", r"\d{8}[- ]?[A-Z]", es_dni),
    NationalId("Finland henkilötunnus", r"\d{6}[-+A-FU-Y]\d{3}[\dA-Y]", fi_hetu),
    NationalId("Chile RUT", r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]", cl_rut),
    NationalId("China resident identity, X", r"[1-9]\d{16}X", cn_id),
    NationalId("Ireland PPS", r"\d{7}[A-W][A-IW]?", ie_pps, r"\bpps"),
)  # fmt: skip

_DIGIT_FORMS = [
    (rule, re.compile(rule.form), re.compile(rule.context, re.IGNORECASE) if rule.context else None) for rule in DIGIT_IDS
]
_LETTER_FORMS = [(rule, re.compile(rule.form), None) for rule in LETTER_IDS]
_TAILED_FORMS = [
    (rule, re.compile(rule.form), re.compile(rule.context, re.IGNORECASE) if rule.context else None) for rule in TAILED_IDS
]
_LETTER_START = re.compile(r"[A-Z]{1,6}[ -]?\d")
_SEPARATORS = str.maketrans("", "", " .-+/")


def first_that_fits(
    text: str, start: int, end: int, forms: Sequence[tuple[NationalId, re.Pattern[str], re.Pattern[str] | None]]
) -> NationalId | None:
    """The first kind of number that text[start:end] is."""
    for rule, form, context in forms:
        if not form.fullmatch(text, start, end):
            continue
        keeps_sign = rule.check is fi_hetu
        compact = text[start:end] if keeps_sign else text[start:end].translate(_SEPARATORS)
        if context and not context.search(text, max(0, start - CONTEXT_CHARACTERS), start):
            continue
        if rule.check(compact.upper()):
            return rule
    return None


def digit_id(text: str, start: int, end: int) -> NationalId | None:
    """The kind of national id that a group of digits and separators is, or None."""
    return first_that_fits(text, start, end, _DIGIT_FORMS)


def tailed_id(text: str, start: int, end: int) -> NationalId | None:
    """The same for digits with letters among or behind them."""
    return first_that_fits(text, start, end, _TAILED_FORMS)


def letter_ids(text: str) -> Iterator[tuple[int, int, NationalId]]:
    """(start, end, kind) of ids that begin with a letter."""
    for match in _LETTER_START.finditer(text):
        if not stands_free(text, match.start()):
            continue
        for rule, form, _ in _LETTER_FORMS:
            found = form.match(text, match.start())
            if found and ends_free(text, found.end()) and rule.check(found[0].translate(_SEPARATORS)):
                yield match.start(), found.end(), rule
                break
