"""Predict classes from the words of a text: a baseline for models of text, sound and video."""

from collections.abc import Sequence
from itertools import compress

import numpy as np

WORDS = (1, 2)  # n-grams: single words and pairs
# Of 1, 5 and 10, this inverse penalty has the best weighted F1 on the validation split of MELD: 0.44, compared with
# 0.40 for 1, the default.
INVERSE_PENALTY = 5.0
TOLERANCE = 1e-3  # a smaller one takes twice the time and does not change the third digit of the scores
ITERATIONS = 1000  # at most


def has_words(texts: Sequence[str]) -> np.ndarray:
    """Return which texts (N,) contain more than white space."""
    return np.array([bool(text.strip()) for text in texts], bool)


def tfidf_predictions(
    train_texts: Sequence[str], train_codes: np.ndarray, texts: Sequence[str], otherwise: int
) -> np.ndarray | None:
    """Predict the class of each text (N,), by TF-IDF of words and word pairs and logistic regression.

    Args:
        train_codes: the class of each training text.
        otherwise: the class to predict for an empty text.

    Returns:
        None if nothing can be learned: no training text has a word, or all texts with words are of one class.
    """
    # Imported here because scikit-learn takes 2 s to import, and only this baseline needs it.
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
    except ValueError:  # empty vocabulary: punctuation and one-letter words do not count as terms
        return None
    with threadpool_limits(1):  # the solver's steps are small: on MELD, two threads take four times as long as one
        model = LogisticRegression(C=INVERSE_PENALTY, tol=TOLERANCE, max_iter=ITERATIONS).fit(features, codes)
    predictions = np.full(len(texts), otherwise)
    with_words = has_words(texts)
    if with_words.any():
        predictions[with_words] = model.predict(terms.transform(list(compress(texts, with_words))))
    return predictions


def seen_in_training(train_texts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Return which texts (N,) occur in the training data, ignoring case and outer white space; empty ones never do."""
    training_texts = {text.strip().casefold() for text in train_texts} - {""}
    return np.array([text.strip().casefold() in training_texts for text in texts], bool)
