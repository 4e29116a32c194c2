"""Secrets go, and everything else stays."""

import time

import pytest

from pretrain.watching.redaction import redacted, redacted_text


@pytest.mark.parametrize(
    "name",
    ["api_key", "WANDB_API_KEY", "hf_token", "accessToken", "aws_secret_access_key", "password", "db_passwd",
     "credentials", "webhook", "private_key", "authorization", "key"],
)  # fmt: skip
def test_a_secret_name_loses_its_text(name: str):
    assert redacted({name: "canary"}) == {name: "***"}
    assert redacted({"outer": [{name: "canary"}]}) == {"outer": [{name: "***"}]}


@pytest.mark.parametrize(
    "setting",
    [{"tokens_per_step": 524288}, {"tokenizer": "gpt2"},
        {"tokenizer": {"name": "gpt2", "sha256": "1ce1"}}, {"text_key": "text"},
     {"token_budget": 1e10}, {"author": "karpathy"}, {"lr": 6e-4, "tags": ["a"], "none": None, "on": True}],
)  # fmt: skip
def test_a_public_setting_stays_as_it_is(setting: dict[str, object]):
    assert redacted(setting) == setting


@pytest.mark.parametrize("name", ["password", "secret"])
def test_a_password_that_looks_like_a_number_is_one(name: str):
    assert redacted({name: 1234}) == {name: "***"}


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("https://me:pass@host/path", "https://***@host/path"),
        ("s3://bucket/x?X-Amz-Signature=abc&part=1", "s3://bucket/x?X-Amz-Signature=***&part=1"),
        ("train --password=abc lr=1", "train --password=*** lr=1"),
        ("api_key: abc", "api_key: ***"),
        ("https://host/path?step=1", "https://host/path?step=1"),
        ("tokens=5 step=3", "tokens=5 step=3"),
    ],
)
def test_text_loses_its_secrets_only(text: str, public: str):
    assert redacted_text(text) == public


def test_the_environments_secrets_are_found_anywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "canary-canary")
    monkeypatch.setenv("DEBUG_TOKEN", "1")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/data/vocabulary")
    assert redacted({"tiktoken_cache": "/data/vocabulary"}) == {"tiktoken_cache": "/data/vocabulary"}
    assert redacted({"note": "got canary-canary 1"}) == {"note": "got *** 1"}


def test_a_long_text_takes_no_time():
    start = time.perf_counter()
    redacted_text("a" * 100_000 + "://" + "b" * 100_000)
    assert time.perf_counter() - start < 2
