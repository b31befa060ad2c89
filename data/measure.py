"""Figures about a set of texts: variety, repetition, and what a bag of words can tell.

Each function takes plain lists and returns a number, so that `data/check.py` can print it beside
its bound.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[\w'’-]+|[.,;:!?]")
_SENTENCE = re.compile(r"[^.!?]+[.!?]+")


def tokenise(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return _WORD.findall(text.lower())


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[\w'’-]+", text.lower())


def vocabulary(texts: Sequence[str]) -> int:
    """How many different words (lower case) the texts use."""
    return len({word for text in texts for word in words(text)})


def duplicate_share(texts: Sequence[str]) -> float:
    """Share of texts that occurred before in the list."""
    return 1.0 - len(set(texts)) / len(texts)


def distinct_share(texts: Sequence[str], n: int = 4) -> float:
    """distinct-n: different n-grams divided by all n-grams, over all texts together."""
    grams: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        tokens = tokenise(text)
        for i in range(len(tokens) - n + 1):
            grams.add(tuple(tokens[i : i + n]))
        total += max(0, len(tokens) - n + 1)
    return len(grams) / max(1, total)


def common_sentences(texts: Sequence[str], least_words: int = 4, top: int = 10) -> list:
    """The sentences found in most texts: [(share of texts, sentence)], the commonest first."""
    counts: Counter[str] = Counter()
    for text in texts:
        found = {" ".join(words(s)) for s in _SENTENCE.findall(text)}
        counts.update(s for s in found if len(s.split()) >= least_words)
    return [(count / len(texts), sentence) for sentence, count in counts.most_common(top)]


def common_runs(texts: Sequence[str], length: int = 8, top: int = 10) -> list:
    """The runs of `length` words found in most texts: [(share of texts, run)]."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        tokens = words(text)
        counts.update({tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)})
    return [(count / len(texts), " ".join(run)) for run, count in counts.most_common(top)]


def bag_of_words_accuracy(
    train: Sequence[str],
    train_labels: Sequence[int],
    test: Sequence[str],
    test_labels: Sequence[int],
    ngrams: int = 1,
) -> float:
    """Accuracy of logistic regression on (tf-idf) word counts, the best of three strengths.

    `ngrams=1` is the bag of words; with 2 or 3 the model sees a little of the order.  The strength
    of regularisation is chosen on the last fifth of `train`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectoriser = TfidfVectorizer(
        ngram_range=(1, ngrams), sublinear_tf=True, token_pattern=r"[\w'’-]+", min_df=2
    )
    features = vectoriser.fit_transform(train)
    cut = len(train) * 4 // 5
    best, best_accuracy = 1.0, -1.0
    for strength in (0.3, 1.0, 4.0):
        model = LogisticRegression(C=strength, max_iter=500)
        model.fit(features[:cut], train_labels[:cut])
        accuracy = model.score(features[cut:], train_labels[cut:])
        if accuracy > best_accuracy:
            best, best_accuracy = strength, accuracy
    model = LogisticRegression(C=best, max_iter=500).fit(features, train_labels)
    return float(model.score(vectoriser.transform(test), test_labels))


def review_figures(reviews: Sequence[dict]) -> dict[str, float]:
    """Variety and length of a list of reviews, and how often gold agrees with the label."""
    from helpers.world import gold_sentiment
    from helpers.world.write_reviews import is_unambiguous

    texts = [review["text"] for review in reviews]
    lengths = [len(words(text)) for text in texts]
    clear = [review for review in reviews if is_unambiguous(review)]
    agree = [(gold_sentiment(r["text"]) > 0) == bool(r["label"]) for r in clear]
    return {
        "distinct-4": distinct_share(texts, 4),
        "vocabulary": vocabulary(texts),
        "commonest sentence": common_sentences(texts, top=1)[0][0],
        "commonest eight words": common_runs(texts, top=1)[0][0],
        "duplicates": duplicate_share(texts),
        "mean words": sum(lengths) / len(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "gold agreement (unambiguous)": sum(agree) / len(agree),
    }
