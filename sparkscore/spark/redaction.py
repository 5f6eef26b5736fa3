"""What a Spark session is told so that its event log, plans and log lines hold no secret and no row's value."""

from __future__ import annotations

from pathlib import Path

from sparkscore.runtime.redaction import KEY_NAMES, PATTERN, TOKENS

__all__ = ["REDACTION_CONF", "log_settings"]

# Spark matches the first against names and values of settings, the second against texts of plans. Its own defaults
# know neither `pwd`, `credential` and `api_key`, nor the credentials in a URL.
REDACTION_CONF = {
    "spark.redaction.regex": rf"(?i){KEY_NAMES}|://[^/@:\s]*:[^@\s]*@|{TOKENS}",
    "spark.redaction.string.regex": PATTERN,
    "spark.sql.redaction.string.regex": PATTERN,
}


def log_settings() -> Path:
    """Find the settings of log4j that take quoted values and secrets out of Spark's own log lines.

    Spark logs the failure of a task with the value that could not be cast, in single quotes.
    """
    package = Path(__file__).parents[1]
    folder = package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
    return folder / "log4j2-redacted.properties"
