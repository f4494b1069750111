"""What the Hub refuses, in one line that says what to do; no line holds a token."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

# The base of every error of the client's HTTP library, which has changed its name before.
HTTP_ERROR: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
SIGN_IN = "`hf auth login`, or set HF_TOKEN"
ADVICE = {
    401: f"the token is not known there or has run out: {SIGN_IN}",
    403: "the token may not do this: it needs to be a write token of the owner of the repository",
}


@contextlib.contextmanager
def told_by_hub(place: str) -> Iterator[None]:
    """Turn errors of the Hub and of the way there into a ValueError of one line, which begins with `place`."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{place}: no token for the Hub; {SIGN_IN}") from error
    except HTTP_ERROR as error:
        response = getattr(error, "response", None)
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        status = None if response is None else response.status_code
        advice = ADVICE.get(status, "the Hub cannot be reached, or is not well: try again later")
        raise ValueError(f"{place}: {said} ({advice})") from error
