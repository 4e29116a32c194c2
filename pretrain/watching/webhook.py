"""How a message reaches a chat: a Slack-compatible webhook, whose address is a secret of the environment.

Slack, Mattermost, Rocket.Chat and Discord (with /slack at the end) take the same body. The address
is never written, logged, or part of an error.
"""

import json
import time
from urllib.parse import urlsplit

VARIABLE = "PRETRAIN_WEBHOOK_URL"
_TIMEOUT_SECONDS = 5.0
_TRIES = 3
_PAUSE_SECONDS = 1.0
# https://api.slack.com/reference/surfaces/formatting#escaping
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LONGEST_TEXT = 2000
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500


def mistake(address: str) -> str:
    """Return what is wrong with an address, without repeating it; "" if nothing is."""
    parts = urlsplit(address)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and local)):
        return ""
    return f"the webhook is off: {VARIABLE} must be an https:// address"


def post(address: str, text: str) -> str:
    """Post `text`; return what went wrong in the end, "" if it was taken. Tries three times; never raises."""
    # 40 ms to import, in processes that mostly have no webhook
    from urllib.error import HTTPError  # noqa: PLC0415
    from urllib.request import Request, urlopen  # noqa: PLC0415

    body = json.dumps({"text": text[:_LONGEST_TEXT].translate(_ESCAPES)}).encode()
    request = Request(address, data=body, headers={"Content-Type": "application/json"})
    wrong = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS * attempt)
        try:
            with urlopen(request, timeout=_TIMEOUT_SECONDS):
                return ""
        except HTTPError as error:
            wrong = f"the webhook answered {error.code}"
            error.close()
            if error.code != _TOO_MANY_REQUESTS and error.code < _SERVER_ERROR:
                break  # a wrong address, or a body it does not like: no better the next time
        except Exception as error:  # its text may hold the address
            wrong = f"the webhook does not answer ({type(error).__name__})"
    return wrong
