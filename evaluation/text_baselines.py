"""Predict classes from words alone: a baseline for models of text, sound and pictures."""

from collections.abc import Sequence
from itertools import compress

import numpy as np

WORDS = (1, 2)  # successive words of a term: the fewest and the most
# Settings of the logistic regression. Of 1, 5 and 10, this inverse penalty has the best weighted F1 on the validation
# side of MELD: 0.44, against 0.40 with 1, the default. A smaller tolerance takes twice the time and changes no third
# digit.
INVERSE_PENALTY = 5.0
TOLERANCE = 1e-3
ITERATIONS = 1000  # at most


def has_words(texts: Sequence[str]) -> np.ndarray:
    """Tell which texts (N,) hold more than white space."""
    return np.array([bool(text.strip()) for text in texts], bool)


def tfidf_predictions(
    train_texts: Sequence[str], train_codes: np.ndarray, texts: Sequence[str], otherwise: int
) -> np.ndarray | None:
    """Return classes (N,) of texts, by TF-IDF of one and two words and logistic regression.

    Args:
        train_codes: the class of each training text.
        otherwise: the class of an empty text.

    Returns:
        None if there is nothing to learn: no training text has a word, or all texts with words are of one class.
    """
    # Imported here because scikit-learn takes 2 s to import, and scores of classes need it only for this.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # a dependency of scikit-learn

    with_words = has_words(train_texts)
    codes = np.asarray(train_codes)[with_words]
    if len(np.unique(codes)) < 2:
        return None
    terms = TfidfVectorizer(ngram_range=WORDS)
    try:
        features = terms.fit_transform(list(compress(train_texts, with_words)))
    except ValueError:  # an empty vocabulary: signs and words of one letter are not terms
        return None
    with threadpool_limits(1):  # the steps of the solver are small: on MELD, two threads take four times as long
        model = LogisticRegression(C=INVERSE_PENALTY, tol=TOLERANCE, max_iter=ITERATIONS).fit(features, codes)
    predictions = np.full(len(texts), otherwise)
    with_words = has_words(texts)
    if with_words.any():
        predictions[with_words] = model.predict(terms.transform(list(compress(texts, with_words))))
    return predictions


def seen_in_training(train_texts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Tell which texts (N,) are in the training data, apart from case and outer white space; empty ones are not."""
    known = {text.strip().casefold() for text in train_texts} - {""}
    return np.array([text.strip().casefold() in known for text in texts], bool)
