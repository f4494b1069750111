"""What words alone tell, by TF-IDF and logistic regression: what a model of text, sound and sight has to beat."""

from collections.abc import Sequence

import numpy as np

WORDS = (1, 2)  # words in a row that are a term, at least and at most
# Of the logistic regression. Of 1, 5 and 10, this inverse penalty had the best weighted F1 on MELD's validation side
# (0.44, against 0.40 with scikit-learn's 1); a tighter tolerance costs twice the time and changes no third digit.
INVERSE_PENALTY = 5.0
TOLERANCE = 1e-3
ITERATIONS = 1000  # at most


def has_words(texts: Sequence[str]) -> np.ndarray:
    """Whether each text (N,) holds anything but space."""
    return np.array([bool(text.strip()) for text in texts], bool)


def tfidf_predictions(
    train_texts: Sequence[str], train_codes: np.ndarray, texts: Sequence[str], otherwise: int
) -> np.ndarray | None:
    """Classes (N,) of texts by TF-IDF of 1 and 2 words and logistic regression.

    Args:
        train_codes: the class of each training text.
        otherwise: the class of an empty text.

    Returns:
        None where nothing can be learnt: no training text has a word, or those that have are of one class.
    """
    # scikit-learn takes 2 s to import, and of all that scores classes only this needs it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # which scikit-learn brings

    told = has_words(train_texts)
    codes = np.asarray(train_codes)[told]
    if len(np.unique(codes)) < 2:
        return None
    terms = TfidfVectorizer(ngram_range=WORDS)
    try:
        learnt = terms.fit_transform([text for text, kept in zip(train_texts, told, strict=True) if kept])
    except ValueError:  # an empty vocabulary: the texts are of signs, or of words of one letter, which are no terms
        return None
    with threadpool_limits(1):  # the solver's steps are small: on MELD, two threads take four times as long as one
        model = LogisticRegression(C=INVERSE_PENALTY, tol=TOLERANCE, max_iter=ITERATIONS).fit(learnt, codes)
    predictions = np.full(len(texts), otherwise)
    told = has_words(texts)
    if told.any():
        predictions[told] = model.predict(terms.transform([t for t, kept in zip(texts, told, strict=True) if kept]))
    return predictions


def seen_in_training(train_texts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Whether each text (N,) stands word for word in training, but for case and the space around it; not if empty."""
    known = {text.strip().casefold() for text in train_texts} - {""}
    return np.array([text.strip().casefold() in known for text in texts], bool)
