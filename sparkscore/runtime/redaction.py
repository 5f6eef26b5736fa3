"""Secrets and personal data in foreign texts: what no message, log line or query plan of ours may hold."""

from __future__ import annotations

import re

__all__ = ["KEY_NAMES", "PATTERN", "TOKENS", "redacted"]

# Names whose value is a secret; Java's regular expressions read these patterns as Python's do. Each begins where a word
# does: Spark searches whole plans with them, and a word there may be long.
KEY_NAMES = (
    r"secret|passw(?:or)?d|passphrase|pwd|token|credential|signature|sasl|jaas|connection|"
    r"(?:access|account|api|private|encryption)[_.-]?key"
)
_CREDENTIALS = r"(?<=://)(?![^/@:\s]{0,256}:\d{1,5}/)[^/@:\s]{0,256}:[^@\s]{0,256}(?=@)"  # user:password of a URL
_KEY_VALUE = rf"((?i:(?<![\w.-])[\w.-]*(?:{KEY_NAMES})[\w.-]*[\"']?\s?[=:]\s?))(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)"
TOKENS = r"\beyJ[\w-]+\.[\w-]+\.[\w-]+|\bgh[pousr]_\w{20,}|\bAKIA[0-9A-Z]{12,}|(?<=Bearer )\S+"
_MAIL = r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
_DIGITS = r"(?<![\w./-])\d(?:[ -]?\d){8,}(?![\w/])"  # cards, accounts, telephones; no part of a name or path
PATTERN = "|".join((_CREDENTIALS, _KEY_VALUE, TOKENS, _MAIL, _DIGITS))

_FOUND = re.compile(PATTERN)  # its one group is the name before a value


def redacted(text: str) -> str:
    """Take secrets, e-mail addresses and long numbers out of a text; the name of what was secret stays.

    Examples
    --------
    >>> redacted("GET https://me:pw@host failed: fs.s3a.secret.key=abc, ann@example.org, card 4111 1111 1111 1111")
    'GET https://#@host failed: fs.s3a.secret.key=#, #, card #'
    """
    return _FOUND.sub(lambda match: f"{match.group(1) or ''}#", text)
