"""Fields of knowledge found without labels: TF-IDF over hashed words, and spherical k-means (paper 3.1.2; the paper's own are not
published).

A text is the set of its hashed words, each weighing log(texts / texts with it), as a unit vector; it goes to the centre that it
makes the smallest angle with, and a centre is the mean direction of its texts. Since no length enters, "which centre" is the
largest of linear sums: the clusters are written as a linear classifier, which `domains` applies at the speed of any other. Texts
are hashed once, to a file; memory holds the centres. Clusters are named by the words that stand out in them; `names` gives them
better ones.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from openherd.classifiers.linear import FeatureFile, hashed
from openherd.core.errors import ConfigError, InputError
from openherd.core.progress import Progress
from openherd.core.records import write_jsonl
from openherd.core.rundir import Output, Run
from openherd.core.seeds import derive_seed, uniform
from openherd.data.calibration import Calibration
from openherd.data.classifier import MODEL
from openherd.data.documents import check_content, read_documents
from openherd.data.linear_model import LinearModel
from openherd.data.ngram_features import NgramConfig
from openherd.data.words import terms

CLUSTERS = "clusters.jsonl"
Floats32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
NAMING_TEXTS = 5_000  # at most, whose words name the clusters
TEMPERATURE = 20.0  # what cosines are multiplied by to be probabilities; ours


@dataclass(frozen=True, kw_only=True)
class ClusterDocumentsConfig:
    """Settings of `cluster-documents`; all ours."""

    clusters: Annotated[int, Field(description="number of clusters", ge=2, le=1_000)] = 32
    bucket_bits: Annotated[int, Field(description="log2 of the number of hashed words told apart", ge=8, le=22)] = 16
    max_document_share: Annotated[float, Field(description="a word in more than this share of texts tells nothing", gt=0, le=1)] = (
        0.5
    )
    min_documents: Annotated[int, Field(description="nor does one in fewer texts than this", ge=1)] = 3
    passes: Annotated[int, Field(description="most passes over the texts", ge=1)] = 20
    still_share: Annotated[float, Field(description="ends when fewer texts than this share change their cluster", ge=0, lt=1)] = (
        0.002
    )
    starts: Annotated[int, Field(description="beginnings tried; the best is kept", ge=1)] = 3
    max_documents: Annotated[int, Field(description="texts that are clustered, drawn by seed; 0 = all", ge=0)] = 100_000
    names: Annotated[dict[str, str], Field(description="names of clusters by number, '0' to clusters - 1")] = field(
        default_factory=dict
    )
    seed: Annotated[int, Field(description="seed of the choice of texts and of the first centres")] = 0

    def __post_init__(self) -> None:
        known = {str(i) for i in range(self.clusters)}
        if wrong := sorted(self.names.keys() - known):
            raise ConfigError("cluster-documents", f"names: {wrong[0]!r}", allowed=f"'0' to '{self.clusters - 1}'")
        if len(set(self.names.values())) < len(self.names):
            raise ConfigError("cluster-documents", "two clusters of one name", allowed="different names")


@dataclass(frozen=True)
class Weighted:
    """Texts as unit vectors of their words' weights."""

    data: FeatureFile
    weight: Floats32  # of each bucket

    def of(self, i: int) -> tuple[npt.NDArray[np.uint32], Floats32]:
        """The buckets of a text and their values, whose squares sum to 1 (or none)."""
        buckets = self.data.of(i)
        buckets = buckets[self.weight[buckets] > 0]
        values = self.weight[buckets]
        norm = float(np.sqrt((values.astype(np.float64) ** 2).sum()))
        return buckets, values / np.float32(norm or 1.0)


def inverse_frequencies(data: FeatureFile, n_buckets: int, max_share: float, least: int) -> Floats32:
    """log(texts / texts with it) of each bucket; 0 for those that too many or too few texts have."""
    counts = np.zeros(n_buckets, np.int64)
    step = 1 << 22
    for i in range(0, len(data.flat), step):
        counts += np.bincount(data.flat[i : i + step], minlength=n_buckets)
    n = len(data)
    usable = (counts >= least) & (counts <= max_share * n)
    return np.where(usable, np.log(n / np.maximum(counts, 1)), 0.0).astype(np.float32)


def first_centres(texts: Weighted, k: int, rng: np.random.Generator, n_buckets: int, chosen: Integers) -> Floats32:
    """k-means++ on some texts: each next centre is a text drawn by how far it is from those before."""
    centres = np.zeros((n_buckets, k), np.float32)
    distance = np.ones(len(chosen))
    for c in range(k):
        total = distance.sum()
        pick = int(rng.choice(len(chosen), p=distance / total)) if total > 0 else int(rng.integers(len(chosen)))
        buckets, values = texts.of(int(chosen[pick]))
        centres[buckets, c] = values
        for j, i in enumerate(chosen.tolist()):
            own, its = texts.of(i)
            distance[j] = min(distance[j], max(1.0 - float(centres[own, c] @ its), 0.0))
    return centres


def nearest(texts: Weighted, centres: Floats32) -> tuple[Integers, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each text its centre and the cosine with it; and the sums of the texts of each centre."""
    n = len(texts.data)
    which, cosine = np.zeros(n, np.int64), np.zeros(n)
    sums = np.zeros(centres.shape)
    for i in range(n):
        buckets, values = texts.of(i)
        found = values @ centres[buckets]
        which[i] = int(found.argmax())
        cosine[i] = float(found[which[i]])
        sums[buckets, which[i]] += values
    return which, cosine, sums


def unit(sums: npt.NDArray[np.float64]) -> Floats32:
    """Columns of length 1; those of nothing stay 0."""
    norms = np.sqrt((sums**2).sum(axis=0))
    return (sums / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def spherical_k_means(
    texts: Weighted, k: int, n_buckets: int, passes: int, still_share: float, seed: int, sample: int = 2_000
) -> tuple[Floats32, Integers, float]:
    """Centres, each text's cluster, and the mean cosine. An empty cluster gets the text that lies farthest from its centre."""
    rng = np.random.default_rng(seed)
    n = len(texts.data)
    chosen = np.sort(rng.permutation(n)[:sample])
    centres = first_centres(texts, k, rng, n_buckets, chosen)
    before = np.full(n, -1)
    with Progress("clustering", passes, "passes") as progress:
        for _ in range(passes):
            which, cosine, sums = nearest(texts, centres)
            far = np.argsort(cosine, kind="stable").tolist()
            for c in np.flatnonzero(np.bincount(which, minlength=k) == 0).tolist():
                buckets, values = texts.of(far.pop(0))
                sums[buckets, c] = values
            moved = int((which != before).sum())
            before = which
            if moved <= still_share * n:
                break
            centres = unit(sums)
            progress.advance(1, f"{moved:,} moved, mean cosine {cosine.mean():.4f}")
    which, cosine, _ = nearest(texts, centres)
    return centres, which, float(cosine.mean())


def outstanding(texts: Sequence[str], which: Integers, k: int, most: int = 6) -> list[list[str]]:
    """The words that stand out in each cluster: how many more of its texts have them than of all, in standard deviations."""
    of_all: Counter[str] = Counter()
    of: list[Counter[str]] = [Counter() for _ in range(k)]
    sizes = np.bincount(which, minlength=k)
    for text, c in zip(texts, which.tolist(), strict=True):
        words = {word for word in terms(text) if len(word) > 1 and not word.isdigit()}
        of_all.update(words)
        of[c].update(words)
    n = max(len(texts), 1)
    found = []
    for c in range(k):
        size = int(sizes[c])

        def stands_out(word: str, c: int = c, size: int = size) -> float:
            p = of_all[word] / n
            return (of[c][word] - size * p) / (size * p * (1 - p) + 1.0) ** 0.5

        found.append(sorted((w for w in of[c] if of[c][w] > 1), key=lambda w: (-stands_out(w), w))[:most])
    return found


def cluster_documents(config: ClusterDocumentsConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Cluster documents by their words; writes `model/`, a classifier of the clusters, and `clusters.jsonl` about each."""
    check_content(documents)
    ids = [row["id"] for row in read_documents(documents, ["id"])]
    drawn = sorted(range(len(ids)), key=lambda i: (uniform(config.seed, "cluster-documents", ids[i]), i))
    chosen = set(drawn[: config.max_documents or None])
    naming: dict[int, str] = {}
    in_naming = set(drawn[:NAMING_TEXTS])
    ngrams = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=config.bucket_bits)

    def texts() -> Any:
        number = 0
        for i, row in enumerate(read_documents(documents, ["text"])):
            if i in chosen:
                if i in in_naming:
                    naming[number] = row["text"]
                number += 1
                yield row["text"]

    n_buckets = 1 << config.bucket_bits
    with hashed(texts(), ngrams, out.path / ".features.tmp", len(chosen)) as data:
        if len(data) < config.clusters:
            raise InputError(documents.path, f"{len(data)} documents", allowed=f"at least clusters = {config.clusters}")
        weighted = Weighted(data, inverse_frequencies(data, n_buckets, config.max_document_share, config.min_documents))
        tried = [
            spherical_k_means(
                weighted, config.clusters, n_buckets, config.passes, config.still_share, derive_seed(config.seed, "start", i)
            )
            for i in range(config.starts)
        ]
    centres, which, cosine = max(tried, key=lambda found: found[2])
    places = sorted(naming)
    words = outstanding([naming[i] for i in places], which[places], config.clusters)
    sizes = np.bincount(which, minlength=config.clusters)
    names = [config.names.get(str(c), " ".join([f"{c:03d}", *words[c][:3]])) for c in range(config.clusters)]
    with out.write(MODEL) as folder:
        as_classifier(names, ngrams, centres, weighted.weight).save(folder)
    with out.write(CLUSTERS) as path:
        rows = ({"cluster": c, "name": names[c], "documents": int(sizes[c]), "words": words[c]} for c in range(config.clusters))
        write_jsonl(path, rows)
    return {
        "documents": len(which),
        "clusters": config.clusters,
        "mean_cosine": cosine,
        "mean_cosine_of_each_start": [found[2] for found in tried],
        "documents_by_cluster": {names[c]: int(sizes[c]) for c in np.argsort(-sizes, kind="stable").tolist()},
    }


def as_classifier(names: Sequence[str], ngrams: NgramConfig, centres: Floats32, weight: Floats32) -> LinearModel:
    """The clusters as a linear classifier: the likeliest label is the nearest centre's."""
    weights = centres * weight[:, None]
    if len(names) == 2:
        weights = weights[:, 1:] - weights[:, :1]
    n_columns = weights.shape[1]
    # A text of n buckets has a norm of about root of n times the usual weight: what is left is a cosine.
    usual = float(np.sqrt((weight[weight > 0].astype(np.float64) ** 2).mean())) if (weight > 0).any() else 1.0
    calibration = Calibration(kind="temperature", scale=TEMPERATURE / usual)
    return LinearModel(tuple(names), ngrams, np.ascontiguousarray(weights), np.zeros(n_columns), calibration)
