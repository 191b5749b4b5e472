"""What the word rules know of a language: common words, and how long its words are (paper 3.1.1: heuristics by language).

Gopher's rules are made for English: running text holds common words, and its words are 3 to 10 characters long on average. For
other languages the common words are ours: ten or so that hardly any page of running text does without. Of 850 texts of ten
sentences in the seventeen languages of ../shared/data/lingua_langid that have a row and spaces, three, all Korean, hold fewer
than two of them, and no mean length lies outside Gopher's range; Korean comes near its lower end (3.06) and has a wider one, as
have, unmeasured, Finnish and Tamil. A language without a row has no word rules, and the stage says how many documents that
were.
"""

from typing import NamedTuple

GOPHER_LENGTHS = (3.0, 10.0)


class WordTable(NamedTuple):
    """One language."""

    common: str
    mean_characters: tuple[float, float] = GOPHER_LENGTHS


WORD_TABLES = {
    "ar": WordTable("في من على إلى أن عن مع هذا هذه التي الذي كان لا ما"),
    "bg": WordTable("и на да се за от не в с че е по са"),
    "bn": WordTable("এবং করে এই না থেকে ও এ করা হয় তার যে জন্য"),
    "ca": WordTable("de la i el que en a per un amb no les és"),
    "cs": WordTable("a se na je v že to s z do o jako pro i ve"),
    "da": WordTable("og i at det er en den til på som af for de med"),
    "de": WordTable("der die und in den von zu das mit sich des auf für ist nicht"),
    "el": WordTable("και το να του η της με που την από για ο τα"),
    "en": WordTable("the be to of and that have with"),  # Gopher's own
    "es": WordTable("de la que el en y a los se del las por un para con"),
    "et": WordTable("ja on ei et see kui oli ta mis ka oma"),
    "fa": WordTable("و در به از که این را با است برای آن"),
    "fi": WordTable("ja on ei että se oli hän joka kun myös mutta tai ovat", (3.0, 12.0)),
    "fr": WordTable("de la le et les des en un du une que est pour dans qui"),
    "he": WordTable("של את על לא הוא עם זה כי גם או היא"),
    "hi": WordTable("के में की है और से को का ने पर यह कि हैं"),
    "hr": WordTable("i je u na se da za su od s koji što kao"),
    "hu": WordTable("a az és hogy nem is egy ez meg de csak volt"),
    "id": WordTable("yang dan di dengan untuk dari ini pada itu dalam tidak ke"),
    "it": WordTable("di e il la che in a per un del non con una le si"),
    "ko": WordTable("이 그 수 있는 등 및 한 것 할 있다 위해 대한", (1.5, 10.0)),
    "lt": WordTable("ir yra kad į su iš ne tai kaip apie buvo"),
    "lv": WordTable("un ir ar no par uz ka kas tas bija arī"),
    "ms": WordTable("yang dan di untuk dengan dalam ini itu pada tidak ke"),
    "nl": WordTable("de van het een en in is dat op te zijn met voor niet"),
    "no": WordTable("og i det er på til som en for at av med den ikke"),
    "pl": WordTable("i w na z się nie do że to jest o jak od po"),
    "pt": WordTable("de a o que e do da em um para com não uma os"),
    "ro": WordTable("de și în la a cu pe care nu o din este să"),
    "ru": WordTable("и в не на что с по как из у к за от это"),
    "sk": WordTable("a sa na je v že to s z do o ako pre aj"),
    "sl": WordTable("in je v na se da za so pa z ki bi tudi"),
    "sr": WordTable("i je u na se da za su od koji и је у на се да за су од који"),
    "sv": WordTable("och i att det som en på är av för med den till inte"),
    "sw": WordTable("ya na wa kwa katika ni za la cha kuwa hii"),
    "ta": WordTable("ஒரு என்று இந்த மற்றும் அந்த என அவர் இது", (3.0, 12.0)),
    "tr": WordTable("ve bir bu için da de ile çok olarak daha olan"),
    "uk": WordTable("і в не на що з у та до як за від це"),
    "ur": WordTable("کے میں کی ہے اور سے کو کا نے پر یہ کہ"),
    "vi": WordTable("và của là có các cho được trong một với không những"),
}

# Plain words of pornographic pages, by language; a user's own lists take their place (the input `dirty_words`).
DIRTY_WORDS = {
    "en": """blowjob blowjobs bukkake camgirl camgirls creampie cumshot cumshots cunt cunts deepthroat dildo dildos fuck fucked
        fucking gangbang handjob handjobs hentai milf milfs orgies orgy porn porno pornstar pornstars pussies pussy slut sluts
        threesome threesomes upskirt whore whores""",
    "de": "abspritzen arschfick fick ficken ficker fickt fotze fotzen gangbang hure huren nutte nutten porno pornos",
    "es": "coño coños culona follada follando follar mamada mamadas porno puta putas puto tetona tetonas",
    "fr": "baise baiser branlette enculer porno pute putes salope salopes sodomie suceuse",
    "it": "cazzo cazzi inculata inculate pompino pompini porno puttana puttane scopata scopare sborra troia troie zoccola",
    "nl": "hoer hoeren kut kutten neuken neukt porno slet sletten",
    "pl": "cipka cipki jebać kurwa kurwy obciąganie porno pizda ruchanie ruchać",
    "pt": "boquete bucetas buceta foda foder gozada gozando porno puta putaria putas siririca",
    "ru": "блядь бляди ебать ебля минет порно порнуха пизда пизды трахает трахать хуй шлюха шлюхи",
    "tr": "amcık porno orospu sakso sikiş sikişme sikme",
}  # fmt: skip
