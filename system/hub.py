"""Errors of the Hub as one line that says what to do. No line contains a token."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

# The base of every error of the client's HTTP library. It is found by name, because huggingface_hub has changed the
# library before (requests, httpx).
HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
SIGN_IN = "Run `hf auth login`, or set HF_TOKEN."
ADVICE = {  # HTTP status -> advice
    401: f"The token is unknown or has expired. {SIGN_IN}",
    403: "The token lacks permission. Use a write token of the owner of the repository.",
}


@contextlib.contextmanager
def one_line_hub_errors(action: str) -> Iterator[None]:
    """Turn errors of the Hub, or of the connection to it, into a one-line ValueError that starts with `action`."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError(f"{action}: no token for the Hub. {SIGN_IN}") from error
    except HTTP_ERROR as error:
        response = getattr(error, "response", None)
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        status = None if response is None else response.status_code
        advice = ADVICE.get(status, "The Hub is unreachable or returned a server error. Try again later.")
        raise ValueError(f"{action}: {message.rstrip('.')}. {advice}") from error
