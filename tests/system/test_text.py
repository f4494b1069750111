"""Text for people: no secrets, no formulas, always encodable."""

import csv
import io
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.text import contains_secret, mask_secrets, masked, plural, printable, safe_cell

SECRET = "Zx9qSECRETq9xZ"
NAMES = (
    "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "AWSAccessKeyId", "Signature",
    "sig", "token", "access_token", "password", "api_key",
)  # fmt: skip
KEYS = (
    f"HFAK{SECRET}", "AKIAABCDEFGHIJKLMNOP", "ASIAABCDEFGHIJKLMNOP", f"hf_{SECRET}abcdefgh", f"ghp_{SECRET}abcdefgh"
)  # fmt: skip


@pytest.mark.parametrize("times_encoded", range(4))
@pytest.mark.parametrize("name", NAMES)
def test_a_signature_in_a_url_is_masked_and_the_rest_stays(name: str, times_encoded: int) -> None:
    url = f"https://host/data.parquet?versionId=7&{name}={SECRET}&part=2"
    for _ in range(times_encoded):
        url = quote(url, safe="")
    text = mask_secrets(f"dataset = '{url}': not found")
    assert SECRET not in text
    assert "host" in text
    assert "part=2" in text
    assert text.endswith("': not found")


@pytest.mark.parametrize(
    "text",
    [
        "aws_secret_access_key: {}",
        "AWS_SECRET_ACCESS_KEY: {}\nregion: here",
        "token: {}",
        "  hub_token :  {}",
        "Authorization: Bearer {}",
        "authorization: {}",
        "'Authorization': 'Bearer {}'",
        "Authorization: Basic {}",
        "run_train.py --hub_token {} --seed 3",
        "--api-key {}",
        "{{token: {}, seed: 3}}",
        "aws_access_key_id: {}",
        "password: {}; user: me",
        "aws_secret_access_key = {}",
        "token = '{}'",
    ],
)
@pytest.mark.parametrize("value", [SECRET, "hf_X", "abc1", "wJalrXUtnFEMI/K7MDENG+bPx=", "a-b_c.d~e.f~g"])
def test_the_value_of_a_secret_entry_option_or_header_is_masked_and_the_rest_stays(text: str, value: str) -> None:
    assert mask_secrets(text.format(value)) == text.format("***")
    assert contains_secret(text.format(value))
    assert mask_secrets(text.format("***")) == text.format("***")


def test_a_long_bearer_is_masked_without_its_header() -> None:
    assert mask_secrets(f"401 for Bearer {SECRET}abcdefgh, sent twice") == "401 for Bearer ***, sent twice"


PASSWORD = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), max_size=8)


@given(PASSWORD, st.integers(0, 3))
def test_any_password_in_a_url_is_masked(text: str, times_encoded: int) -> None:
    password = quote(f"{SECRET}{text}", safe="") if set(text) & set("?#") else f"{SECRET}{text}"
    url = f"s3://user:{password}@host/key"
    for _ in range(times_encoded):
        url = quote(url, safe="")
    assert SECRET not in mask_secrets(f"{url}: missing object")
    assert SECRET not in mask_secrets(f"{Path(url)}: missing folder")


@pytest.mark.parametrize("key", KEYS)
def test_an_access_key_is_masked_anywhere(key: str) -> None:
    assert contains_secret(key)
    assert key not in mask_secrets(f"run_name={key}: too long")
    assert masked({"a": [{"b": key}], "n": 1}) == {"a": [{"b": "***"}], "n": 1}


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/songs/100%25 of a@b.wav?x=1", "hf_datasets/pmemo: missing folder", "--s3 a: give key=value",
        "learning_rate=nan: not a number", "num_threads=3 design=5", "HFA", "https://host:8080/path?design=4",
        "user@host.org: unknown", "argument --hub_token: expected one argument", "--hub_token --seed 3",
        "tokens: 512", "--max_tokens 512", "the token is missing: give one", "a bearer of news", "secretary: me",
        "unk_token: [UNK]", "[PAD] token: is missing", "--token requires a value", "password: give one",
        "--hub_token is a secret", "Authorization: required by", "secret: str | None", "hub_token: None",
    ],
)  # fmt: skip
def test_a_text_without_a_secret_is_unchanged(text: str) -> None:
    assert mask_secrets(text) == text
    assert not contains_secret(text)


@pytest.mark.parametrize("begin", "=+-@\t\r\n")
def test_a_cell_does_not_start_like_a_formula(begin: str) -> None:
    assert safe_cell(f"{begin}cmd|' /C calc'!A0") == f"'{begin}cmd|' /C calc'!A0"


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_stays_a_number(value: float) -> None:
    assert safe_cell(value) is value
    assert type(value)(safe_cell(repr(value))) == value  # parsed as an integer: no float represents 2**53 + 1


@given(st.text(st.characters(codec=None), max_size=12))
def test_any_cell_can_be_written_and_none_is_a_formula(text: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerow([safe_cell(text), "end"])
    read, end = next(csv.reader(io.StringIO(file.getvalue().encode().decode(), newline="")))
    assert end == "end"
    assert read in (printable(text), f"'{printable(text)}")
    assert not read.startswith(("=", "@", "\t", "\r", "\n"))
    if read.startswith(("+", "-")):
        float(read)  # raises if it is not a number


def test_a_name_that_is_not_utf8_is_escaped() -> None:
    assert printable("caf\udce9.wav") == "caf\\udce9.wav"
    assert printable("café.wav") == "café.wav"


@pytest.mark.parametrize(
    ("count", "nouns", "expected"),
    [
        (0, "", "0 rows"),
        (1, "", "1 row"),
        (1200, "", "1,200 rows"),
        (1, "entries", "1 row"),
        (2, "entries", "2 entries"),
    ],
)
def test_a_noun_agrees_with_its_count(count: int, nouns: str, expected: str) -> None:
    assert plural(count, "row", nouns) == expected
