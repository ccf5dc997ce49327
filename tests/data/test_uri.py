"""What is shown of a URI: all but its secrets."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitray.data.uri import is_uri
from vitray.masking import public

SECRETS = st.text(string.ascii_letters + string.digits + "/+=%:@!", min_size=8, max_size=40).map(lambda s: f"S3cr{s}t")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:secret@bucket/a/b?scheme=http", "s3://***@bucket/a/b?scheme=http"),
        ("s3://key:se/cr+et=@bucket/a b", "s3://***@bucket/a b"),
        ("s3://key@bucket/a", "s3://***@bucket/a"),
        ("s3://bucket/a@b.png", "s3://bucket/a@b.png"),
        ("s3://bucket/a?endpoint_override=localhost:9000&region=x", "s3://bucket/a?endpoint_override=localhost:9000&region=x"),
        ("https://host/x?a=1&sas_token=abc&b=2", "https://host/x?a=1&sas_token=***&b=2"),
        ("file:///home/me/x", "file:///home/me/x"),
        ("/home/me@work:x", "/home/me@work:x"),
        ("cannot parse 's3://key:secret@bucket' and s3://b/c", "cannot parse 's3://***@bucket' and s3://b/c"),
    ],
)  # fmt: skip
def test_credentials_are_masked_and_nothing_else(uri: str, shown: str) -> None:
    assert public(uri) == shown
    assert public(shown) == shown


@given(SECRETS, st.sampled_from(["s3", "gs", "abfs", "https"]))
def test_no_secret_is_ever_shown(secret: str, scheme: str) -> None:
    for uri in (f"{scheme}://user:{secret}@host/path", f"{scheme}://host/path?access_key={secret.replace('&', '')}"):
        assert secret not in public(uri)
        assert secret not in public(f"an error about '{uri}', which went on")


def test_what_is_a_uri() -> None:
    assert is_uri("s3://bucket")
    assert is_uri("file:///x")
    assert not is_uri("/a/b:c")
    assert not is_uri("relative/folder")
    assert not is_uri("C:\\folder")
