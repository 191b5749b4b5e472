"""A paper's own macros, written out, so that each formula stands by itself: \\newcommand, \\def, \\DeclareMathOperator.

Only what puts text in place of text is done; a definition that TeX would have to run stays as it is.
"""

import re

MOST_EXPANDED = 20  # characters that writing out macros may make of one
ROUNDS = 6  # macros within macros
DEFINITION = re.compile(
    r"\\(?:(?:new|renew|provide)command|DeclareRobustCommand)\*?\s*"
    r"(?:\{\s*\\([A-Za-z]+)\s*\}|\\([A-Za-z]+))\s*(?:\[(\d)\])?\s*(\[)?"
)
DEF = re.compile(r"\\(?:g|e|x)?def\s*\\([A-Za-z]+)((?:#\d)*)\s*(?=\{)")
OPERATOR = re.compile(r"\\DeclareMathOperator(\*?)\s*\{?\s*\\([A-Za-z]+)\s*\}?\s*(?=\{)")
OURS = frozenset(
    ("begin", "end", "item", "section", "documentclass", "document", "cite", "ref", "label", "caption", "and", "title", "author")
)


def braced(text: str, at: int) -> int:
    """Where the group that begins at a brace (or bracket) ends, behind it; -1 where it does not."""
    depth, escaped = 0, False
    opening = text[at]
    closing = "]" if opening == "[" else "}"
    braces = 0
    for i in range(at, len(text)):
        c = text[i]
        if escaped:
            escaped = False
        elif c == "\\":
            escaped = True
        elif opening == "[" and c in "{}":
            braces += 1 if c == "{" else -1
        elif c == opening and not braces:
            depth += 1
        elif c == closing and not braces:
            depth -= 1
            if not depth:
                return i + 1
    return -1


Macros = dict[str, tuple[int, str | None, str]]  # arguments, the first one's default, body


def own_macros(text: str) -> tuple[str, Macros]:
    """The text without the definitions of simple macros, and these."""
    macros: Macros = {}
    pieces, done = [], 0
    for match in re.finditer(f"{DEFINITION.pattern}|{DEF.pattern}|{OPERATOR.pattern}", text):
        if match.start() < done:
            continue
        name = match[1] or match[2] or match[5] or match[8]
        default, at = None, match.end()
        if match[4]:
            end = braced(text, match.end() - 1)
            if end < 0:
                continue
            default, at = text[match.end() : end - 1], end
        at += len(text[at:]) - len(text[at:].lstrip()) if text[at : at + 1].isspace() else 0
        end = braced(text, at) if text[at : at + 1] == "{" else -1
        if end < 0 or name in OURS:
            continue
        body = text[at + 1 : end - 1]
        if match[8]:
            body = f"\\operatorname{match[7]}{{{body}}}"
        macros[name] = (int(match[3] or (match[6] or "").count("#")), default, body)
        pieces.append(text[done : match.start()])
        done = end
    return "".join([*pieces, text[done:]]), macros


def expanded(text: str, macros: Macros) -> str:
    """The text with macros written out; one that calls itself, or makes too much, stays."""
    longest = MOST_EXPANDED * len(text) + 10_000
    if not macros:
        return text
    names = re.compile(r"\\(" + "|".join(sorted(map(re.escape, macros), key=len, reverse=True)) + r")(?![A-Za-z])")
    for _ in range(ROUNDS):
        pieces, done = [], 0
        for match in names.finditer(text):
            if match.start() < done:
                continue
            n, default, body = macros[match[1]]
            values, at = [], match.end()
            if default is not None:
                end = braced(text, at) if text[at : at + 1] == "[" else 0
                values.append(text[at + 1 : end - 1] if end > 0 else default)
                at = end if end > 0 else at
            while len(values) < n:
                at += len(re.match(r"\s*", text[at : at + 100])[0])  # type: ignore[index]
                if text[at : at + 1] == "{":
                    end = braced(text, at)
                    if end < 0:
                        break
                    values.append(text[at + 1 : end - 1])
                else:
                    token = re.match(r"\\[A-Za-z]+|\\.|[^\\{}]", text[at : at + 50])
                    if not token:
                        break
                    end = at + token.end()
                    values.append(token[0])
                at = end
            if len(values) < n:
                continue
            put = re.sub(r"#(\d)", lambda m, v=values: v[int(m[1]) - 1] if 0 < int(m[1]) <= len(v) else m[0], body)  # type: ignore[misc]
            follows = text[at : at + 1]
            put += " " if re.search(r"\\[A-Za-z]+$", put) and follows.isalpha() else ""
            pieces += [text[done : match.start()], put]
            done = at
        new = "".join([*pieces, text[done:]])
        if new == text or len(new) > longest:
            return text
        text = new
    return text
