"""Pages in several languages as one document per language (paper 3.1.1 identifies the language of documents, not of their parts).

A page whose blocks of lines are in several languages (`language.languages_of_blocks`) and of which at least two have enough text is
dropped as one and kept as parts: one document for each such language, which holds that language's blocks in order. Blocks of other
languages go with the main one, so that no line is lost. A part's id follows from the page's id and the language; the rest of its
lineage is the page's. All other documents are kept as they are.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from openherd.core.progress import Progress
from openherd.core.records import count_rows
from openherd.core.rundir import Output, Outside, Run
from openherd.data.documents import DOCUMENTS, LANGUAGE_SCHEMA, Drop, Funnel, check_content, read_documents
from openherd.data.language import identify, languages_of_blocks, model_file, shares_of
from openherd.data.language_models import LanguageModel, load_model


@dataclass(frozen=True, kw_only=True)
class LanguageSplitConfig:
    """Settings of `language-split`; the paper splits no page, all values are ours."""

    block_characters: Annotated[int, Field(description="fewest characters of a block that is told by itself", ge=20)] = 100
    min_part_characters: Annotated[int, Field(description="a language with less text makes no document of its own", ge=1)] = 500
    min_part_share: Annotated[float, Field(description="nor one with a smaller share of the page's characters", ge=0, le=1)] = 0.1


def parts_of(config: LanguageSplitConfig, text: str, model: LanguageModel) -> dict[str, tuple[str, float]]:
    """The text and score of each language that makes a document of its own, the largest first; of one at least."""
    [whole] = identify([text], model=model)
    blocks = languages_of_blocks(text, whole, config.block_characters, model)
    found = shares_of(blocks) or [(whole[0], 1.0)]
    main = found[0][0]
    large = {
        code for code, share in found if share >= config.min_part_share and share * len(text) >= config.min_part_characters
    } | {main}
    parts: dict[str, tuple[str, float]] = {}
    for code in (code for code, _ in found if code in large):
        own = [block for block in blocks if block.language == code or (code == main and block.language not in large)]
        told = [block for block in own if block.language == code]
        score = sum(block.score * len(block.text) for block in told) / max(sum(len(block.text) for block in told), 1)
        parts[code] = "".join(block.text for block in own), score
    return parts


def language_split(config: LanguageSplitConfig, *, documents: Run, model: Outside | None = None, out: Output) -> dict[str, Any]:
    """Split pages in several languages. Returns how many were, and how many documents they became, besides the funnel."""
    check_content(documents)
    known = load_model(model_file(model))
    n_split = n_parts = 0
    n_rows = count_rows(documents.file(DOCUMENTS)) or 0
    with Funnel("language-split", out, LANGUAGE_SCHEMA) as funnel, Progress("language-split", n_rows, "documents") as progress:
        for row in read_documents(documents):
            funnel.take(row)
            parts = parts_of(config, row["text"], known)
            if len(parts) < 2:
                [(code, (_, score))] = parts.items()
                funnel.keep({**row, "language": code, "language_score": score})
            else:
                n_split += 1
                n_parts += len(parts)
                funnel.drop(row, Drop("split by language", ", ".join(parts)))
                for code, (text, score) in parts.items():
                    part_id = hashlib.sha256(f"{row['id']} {code}".encode()).hexdigest()[:32]
                    funnel.keep({**row, "id": part_id, "text": text, "language": code, "language_score": score})
            progress.advance()
    return funnel.metrics() | {"documents_split": n_split, "parts": n_parts}
