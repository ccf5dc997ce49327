"""Secrets: masked wherever they are part of a text, and nothing else is."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.masking import MASK, is_secret_name, masked, masked_values, secret_values

SECRETS = st.text(string.ascii_letters + string.digits + "/+=_-", min_size=8, max_size=40)


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "apiKey", "store.api_key", "db-passwd"),
        *("PGPASSWORD", "SSHPASS", "REDISCLI_AUTH", "AUTHTOKEN", "AZURE_STORAGE_CONNECTION_STRING"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "PWD",
        "OLDPWD",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
        "AWS_ACCESS_KEY_ID",
        "SSH_AUTH_SOCK",
        "model.pos_encoding",
        "optim.lr",
        "KEYBOARD",
    ],
)
def test_names_that_only_sound_alike(name: str) -> None:
    assert not is_secret_name(name)


@given(st.text(), SECRETS, st.text())
def test_no_text_shows_a_secret_of_the_environment(before: str, secret: str, after: str) -> None:
    environment = {"MY_TOKEN": secret, "HOME": "/root"}
    shown = masked(before + secret + after, environment)
    assert secret not in shown


def test_a_password_in_a_uri_of_the_environment_is_one_anywhere() -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://me:pa55word@host:5000"}
    assert masked("login as me with pa55word failed", environment) == f"login as me with {MASK} failed"


@pytest.mark.parametrize("text", ["http://h:1," * 2000, "x://" + "a" * 20000, "?key" * 5000, '"s3://b/a:1",' * 2000])
def test_a_long_text_is_no_riddle(text: str) -> None:
    assert len(masked(text, {})) <= len(
        text
    )  # seconds, or for ever, where the search for credentials goes back and forth


def test_passwords_with_odd_characters() -> None:
    uri = "postgresql://vit:s3cr?t@word@host/db"
    assert masked(uri, {}) == f"postgresql://{MASK}@host/db"
    assert masked("s3cr?t@word was wrong", {"MLFLOW_TRACKING_URI": uri}) == f"{MASK} was wrong"
    assert masked("AccountName=a;AccountKey=abc123==;x", {}) == f"AccountName=a;AccountKey={MASK};x"


def test_short_and_harmless_values_stay() -> None:
    assert secret_values({"USE_TOKEN": "true", "API_KEY": "", "HOME": "/home/somebody"}) == ()
    assert masked("true at /home/me", {"USE_TOKEN": "true"}) == "true at /home/me"


def test_a_longer_secret_hides_the_shorter_in_it() -> None:
    assert masked("abcdef-ghi", {"A_KEY": "abcdef", "B_KEY": "abcdef-ghi"}) == MASK


def test_values_by_their_keys() -> None:
    values = {"store.password": "x", "optim.lr": 0.1, "auth_token": None, "flag_key": True, "path": "s3://a:b@c"}
    shown = {"store.password": MASK, "optim.lr": 0.1, "auth_token": None, "flag_key": True, "path": f"s3://{MASK}@c"}
    assert masked_values(values) == shown
