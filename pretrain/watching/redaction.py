"""Which parts of a setting or a message are secret, and never reach a file, a log or a service."""

import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

REDACTED = "***"

# Nothing but a secret goes by these names, whatever its type.
_ALWAYS_SECRET = re.compile(
    r"passw|passphrase|secret|credential|authorization|cookie|webhook|private_?key", re.I
)
# These name secrets when the value is text (`api_key`, `hf_token`), and counts when it is a number
# (`tokens_per_step`); `tokenizer`, TIKTOKEN_CACHE_DIR and `text_key` are neither.
_SECRET_IF_TEXT = re.compile(r"(?<!tik)token(?!i[sz])|key|auth(?!or)", re.I)
_PUBLIC_NAMES = {"text_key"}

_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# `--password=…`, `?X-Amz-Signature=…`, `api_key: …`: a secret name followed by its value.
_NAMED_IN_TEXT = re.compile(
    r"(?i)([\w.-]{0,40}(?:passw\w{0,9}|passphrase|secret|credential|signature|token|api_?key|access_?key)\s*[=:]\s*)([^\s&,;'\"]+)"
)
# The environment's short values (`1`, `true`) are no secrets, and replacing them would eat the text.
_SHORTEST_SECRET = 8


def redacted(value: Any, name: str = "") -> Any:
    """Return `value` as plain JSON data with every secret inside replaced by `***`."""
    if value is None or isinstance(value, bool):
        return value
    if _ALWAYS_SECRET.search(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [redacted(item, name) for item in value]
    if isinstance(value, (int, float)):
        return value
    secret = _SECRET_IF_TEXT.search(name) and name not in _PUBLIC_NAMES
    return REDACTED if secret else redacted_text(str(value))


def redacted_text(text: str) -> str:
    """Return `text` without the user part of URLs, named secrets, and the environment's secrets."""
    for secret in _secrets_of_the_environment():
        text = text.replace(secret, REDACTED)
    text = _USER_IN_URL.sub(REDACTED, text)
    return _NAMED_IN_TEXT.sub(rf"\g<1>{REDACTED}", text)


def print_exception(error: BaseException) -> None:
    """Print the traceback of an exception as Python does, without its secrets."""
    print(redacted_text("".join(traceback.format_exception(error))), end="", file=sys.stderr, flush=True)


def _secrets_of_the_environment() -> list[str]:
    """Return the values of variables such as WANDB_API_KEY, the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_SECRET and (_ALWAYS_SECRET.search(name) or _SECRET_IF_TEXT.search(name))
    }
    return sorted(found, key=len, reverse=True)
