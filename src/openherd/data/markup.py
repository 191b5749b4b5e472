"""Pieces of HTML as text, laid out as they are: no main content is looked for. For what is no page of the web but holds HTML."""

import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

BLANK_LINES = re.compile(r"\n[ \t]*(\n[ \t]*){2,}")


def html_text(markup: str) -> str:
    """The text of a piece of HTML; code keeps its lines and their indentation, pictures their alternative text."""
    if not markup.strip():
        return ""
    tree = HTMLTree.parse(markup)
    text = extract_plain_text(tree, preserve_formatting=True, main_content=False, alt_texts=True, list_bullets=True)
    return BLANK_LINES.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip("\n")
