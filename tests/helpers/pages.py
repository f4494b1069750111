"""What a report page holds: its text, and the figures in it."""

import base64
import re


def without_images(page: str) -> str:
    return re.sub(r"data:[^\"]+", "", page)


def embedded_images(page: str) -> set[bytes]:
    return {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}


def assert_no_missing_value(page: str) -> None:
    """Check that no value without a number reached the text."""
    assert re.findall(r"\b(nan|None|inf)\b", without_images(page)) == []
