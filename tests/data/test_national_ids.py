"""National ids beside python-stdnum, which others wrote."""

import importlib
import random

import pytest

from openherd.data import national_ids
from openherd.data.national_ids import DIGIT_IDS, LETTER_IDS, TAILED_IDS, digit_id, letter_ids, luhn, mod_11_10, tailed_id, verhoeff


# Our check, the module of python-stdnum, and what random numbers look like: "#" a digit, "@" a letter, "%" a digit, X or K.
def rule(name):
    return next(rule.check for rule in DIGIT_IDS if rule.name == name)


TWINS = [
    (rule("Canada SIN"), "ca.sin", "1########"),
    (rule("Netherlands BSN"), "nl.bsn", "1########"),
    (rule("Poland PESEL"), "pl.pesel", "##051######"),
    (rule("Portugal NIF"), "pt.nif", "2########"),
    (rule("Switzerland AHV"), "ch.ssn", "756##########"),
    (rule("Thailand identity"), "th.pin", "1############"),
    (rule("Israel identity"), "il.idnr", "#########"),
    (rule("India Aadhaar"), "in_.aadhaar", "2###########"),
    (rule("Australia TFN"), "au.tfn", "#########"),
    (rule("Belgium national register"), "be.nn", "##051######"),
    (rule("US social security"), "us.ssn", "2########"),
    (national_ids.br_cpf, "br.cpf", "###########"),
    (national_ids.cl_rut, "cl.rut", "########%"),
    (national_ids.fr_nir, "fr.nir", "1##05##########"),
    (national_ids.es_dni, "es.dni", "########@"),
    (national_ids.es_dni, "es.nie", "Y#######@"),
    (national_ids.it_codice_fiscale, "it.codicefiscale", "RSSMRA##T1#H501@"),
    (national_ids.de_steuer_id, "de.idnr", "###########"),
    (national_ids.se_personnummer, "se.personnummer", "##051#####"),
    (national_ids.no_fodselsnummer, "no.fodselsnummer", "1#05#######"),
    (national_ids.fi_hetu, "fi.hetu", "1#05##-###@"),
    (national_ids.cz_rodne_cislo, "cz.rc", "##051#####"),
    (national_ids.kr_rrn, "kr.rrn", "##051#1######"),
    (national_ids.cn_id, "cn.ric", "11010119##051####%"),
    (national_ids.mx_curp, "mx.curp", "BOXW##051#HNERXN0#"),
    (national_ids.gb_nhs, "gb.nhs", "##########"),
    (national_ids.ar_cuit, "ar.cuit", "20#########"),
    (national_ids.tr_kimlik, "tr.tckimlik", "###########"),
    (national_ids.za_id, "za.idnr", "##051#####08#"),
    (national_ids.ro_cnp, "ro.cnp", "1##051#12####"),
    (national_ids.ie_pps, "ie.pps", "#######@"),
    (national_ids.luhn, "luhn", "##########"),
    (national_ids.verhoeff, "verhoeff", "##########"),
    (national_ids.mod_11_10, "iso7064.mod_11_10", "##########"),
]  # fmt: skip
STRICTER = {"be.nn", "no.fodselsnummer", "fi.hetu", "kr.rrn"}  # these ask for a day in the past as well, or for a known place
N_RANDOM = 1_500


@pytest.mark.parametrize(("check", "module", "form"), TWINS, ids=lambda value: value if isinstance(value, str) else "")
def test_checks_agree_with_others(check, module, form):
    other = importlib.import_module(f"stdnum.{module}")
    draw = random.Random(7)
    letters = {"#": "0123456789", "@": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "%": "0123456789XK"}
    n_valid = 0
    for _ in range(N_RANDOM):
        number = "".join(draw.choice(letters.get(c, c)) for c in form)
        if (number[-1], module) in (("X", "cl.rut"), ("K", "cn.ric")):
            continue
        valid = other.is_valid(number)
        n_valid += valid
        if check(number) != valid:
            assert (valid, module in STRICTER) == (False, True), number
    assert n_valid > 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("219-09-9998", "US social security"),
        ("000-12-3456", None),
        ("666-12-3456", None),
        ("219-00-9999", None),
        ("900-70-1234", "US social security"),
        ("900-12-3456", None),
        ("046 454 286", None),
        ("SIN: 130 692 544", "Canada SIN"),
        ("SSN 219099998", "US social security, plain"),
        ("219099998", None),
        ("NHS number 943 476 5919", "UK NHS"),
        ("390.533.447-05", "Brazil CPF"),
        ("390.533.447-06", None),
        ("Steuer-ID: 36 574 261 809", "Germany tax id"),
        ("BSN 111222333", "Netherlands BSN"),
        ("85.07.30-033.28", "Belgium national register"),
        ("PESEL 44051401359", "Poland PESEL"),
        ("811228-9874", "Sweden personnummer"),
        ("756.9217.0769.85", "Switzerland AHV"),
        ("1-1014-00007-10-2", None),
        ("T.C. Kimlik No: 10000000146", "Turkey kimlik"),
        ("20-26756539-3", "Argentina CUIT"),
        ("Aadhaar 2341 2341 2346", "India Aadhaar"),
        ("11010519491231002X", "China resident identity, X"),
        ("131052-308T", "Finland henkilötunnus"),
        ("54362315K", "Spain DNI"),
        ("30.686.957-4", "Chile RUT"),
        ("12345678Z", "Spain DNI"),
        ("12345678A", None),
    ],
)
def test_digits_in_their_forms(text, name):
    start = next(i for i, c in enumerate(text) if c.isdigit())
    ends_in_letter = text[-1].isalpha() or text[-5:].upper() != text[-5:].lower()
    found = (tailed_id if ends_in_letter or name == "Chile RUT" else digit_id)(text, start, len(text))
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AB123456C", "UK national insurance"),
        ("AB 12 34 56 C", "UK national insurance"),
        ("GB123456C", None),
        ("X-1234567-L", "Spain NIE"),
        ("X1234567A", None),
        ("RSSMRA85T10A562S", "Italy codice fiscale"),
        ("RSSMRA85T10A562T", None),
        ("BOXW310820HNERXN09", "Mexico CURP"),
        ("AAAPL1234C", "India PAN"),
        ("A123456789", "Taiwan identity"),
        ("A123456788", None),
        ("S1234567D", "Singapore NRIC"),
        ("S1234567E", None),
        ("xAB123456C", None),
        ("AB123456CD", None),
    ],
)
def test_letters_first(text, name):
    assert [(rule.name, text[start:end]) for start, end, rule in letter_ids(text)] == ([(name, text)] if name else [])


@pytest.mark.parametrize("check", [luhn, verhoeff, mod_11_10])
def test_one_wrong_digit_is_always_seen(check):
    draw = random.Random(3)
    for _ in range(50):
        body = "".join(draw.choice("0123456789") for _ in range(9))
        right = next(body + digit for digit in "0123456789" if check(body + digit))
        place = draw.randrange(10)
        for digit in set("0123456789") - {right[place]}:
            assert not check(right[:place] + digit + right[place + 1 :])


def test_every_kind_has_a_name_of_its_own():
    names = [rule.name for rule in (*DIGIT_IDS, *LETTER_IDS, *TAILED_IDS)]
    assert len(names) == len(set(names)) >= 35
