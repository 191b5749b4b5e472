"""The encoding of a page's bytes: byte-order mark, HTTP header, the page's own head, and what the bytes themselves look like.

What is declared is often wrong: servers name Latin 1 or UTF-8 for all that they send. So a declared encoding must decode the whole
page, and UTF-8, which other text almost never is by chance, goes before encodings of one byte, which decode anything. What is left
is guessed from the bytes.
"""

import codecs
import re

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]+encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
ONE_BYTE = re.compile(r"(?:iso-?8859|iso8859|latin|cp125|windows-125|koi8|cp866|ibm866|mac|tis)", re.IGNORECASE)
META_BYTES = 1024  # where HTML allows a page to name its encoding; many name it later, so four times that is looked at


def declared_in(content: bytes) -> str:
    """The encoding that a page's head names; empty where there is none."""
    start = content[: 4 * META_BYTES]
    found = META_CHARSET.search(start) or XML_ENCODING.search(start)
    return found[1].decode("ascii") if found else ""


def encodable(text: str) -> str:
    """A text with what UTF-8 has no bytes for (half a pair of JSON's escapes, say) replaced."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def decode(content: bytes, content_type: str) -> str:
    """A page's bytes as text: by its byte-order mark, its header or its head, else UTF-8, else the encoding that it looks like.

    Latin 1 is named so often by servers that do not know that UTF-8 goes before it. What cannot be decoded becomes U+FFFD.
    """
    declared = CHARSET.search(content_type)
    inside = declared_in(content)
    if inside.lower().startswith("utf-16"):
        inside = "utf-8"  # a page whose head can be read as ASCII is none in UTF-16
    marked = next((name for mark, name in MARKS if content.startswith(mark)), "")
    said = (map_encoding_to_html5(name, fallback_utf8=False) for name in (declared[1] if declared else "", inside) if name)
    named = [name for name in (marked, *said) if name]
    several_bytes = [name for name in named if not ONE_BYTE.match(name)]
    for encoding in dict.fromkeys([*several_bytes, "utf-8", *named]):
        try:
            return content.decode(encoding).removeprefix("\ufeff")
        except (ValueError, LookupError):
            continue
    detected = detect_encoding(content)
    best = detected if named[:1] == ["utf-8"] and detected and mostly_readable(content, detected) else ""
    return bytes_to_str(
        content, best or (named[0] if named else "") or detected or "utf-8", fallback_encodings=(), errors="replace"
    )


def mostly_readable(content: bytes, encoding: str) -> bool:
    """Whether bytes declared as UTF-8 are so far from it that another encoding, which decodes them whole, is the better guess."""
    wrong = content.decode("utf-8", "replace").count("\ufffd")
    try:
        content.decode(encoding)
    except (ValueError, LookupError):
        return False
    return wrong > 3 + 0.02 * len(content)
