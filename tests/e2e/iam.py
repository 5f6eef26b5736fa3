"""Requests to S3 become the IAM actions that they need, judged by a policy and not by what printed it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.faults import Request

__all__ = ["needs", "outside", "used"]

# What a request may carry and still be one of those below; another, such as `acl`, is an action of its own.
_KNOWN = {"list-type", "prefix", "delimiter", "max-keys", "continuation-token", "start-after", "encoding-type"}
_KNOWN |= {"fetch-owner", "partNumber", "uploadId", "uploads", "delete", "x-id"}
Need = tuple[str, str]  # an action, and the ARN of the bucket or the key


def needs(request: Request) -> set[Need]:
    """Give the actions that a path-style request needs (Service Authorization Reference, Amazon S3)."""
    url = urlsplit(request.path)
    bucket, _, key = unquote(url.path).lstrip("/").partition("/")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    arn = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    if not set(query) <= _KNOWN:
        return {(f"unknown: {request.method} with {', '.join(sorted(query))}", arn)}
    if not key:
        return _of_bucket(request, arn, query)
    found = {(_of_key(request.method, query), arn)}
    if request.copied_from:
        found.add(("s3:GetObject", f"arn:aws:s3:::{unquote(request.copied_from).lstrip('/')}"))
    return found


def outside(policy: dict[str, Any], requests: Iterable[Request]) -> list[Need]:
    """Give the actions that no statement allows."""
    wanted = {need for request in requests for need in needs(request)}
    return sorted(need for need in wanted if not any(_allows(one, need) for one in policy["Statement"]))


def used(policy: dict[str, Any], requests: Iterable[Request]) -> set[tuple[str, str]]:
    """Give the actions of the statements, as (Sid, action), without which some request would be refused."""
    wanted = {need for request in requests for need in needs(request)}
    by = {need: [one["Sid"] for one in policy["Statement"] if _allows(one, need)] for need in wanted}
    return {(sids[0], need[0]) for need, sids in by.items() if len(sids) == 1}


def _of_bucket(request: Request, arn: str, query: dict[str, str]) -> set[Need]:
    if request.method == "POST" and "delete" in query:
        keys = [element.text for element in ET.fromstring(request.body).iter() if element.tag.endswith("Key")]
        return {("s3:DeleteObject", f"{arn}/{key}") for key in keys}
    is_listing = request.method == "HEAD" or (request.method == "GET" and query.get("list-type") == "2")
    return {("s3:ListBucket" if is_listing else f"unknown: {request.method} of a bucket", arn)}


def _of_key(method: str, query: dict[str, str]) -> str:
    if method in ("GET", "HEAD"):
        return "s3:ListMultipartUploadParts" if "uploadId" in query else "s3:GetObject"
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
    return "s3:PutObject" if method == "PUT" or {"uploads", "uploadId"} & set(query) else f"unknown: {method}"


def _allows(statement: dict[str, Any], need: Need) -> bool:
    action, arn = need
    if statement["Effect"] != "Allow" or set(statement) != {"Sid", "Effect", "Action", "Resource"}:
        raise AssertionError(f"a statement of a kind that is not judged here: {statement}")
    return action in statement["Action"] and any(_pattern(one).fullmatch(arn) for one in statement["Resource"])


def _pattern(resource: str) -> re.Pattern[str]:
    """Read a resource as IAM does: `*` and `?` also match '/', and `${*}` is the character."""
    parts = re.split(r"(\$\{[*?$]\}|\*|\?)", resource)
    kinds = {"*": ".*", "?": ".", "${*}": r"\*", "${?}": r"\?", "${$}": r"\$"}
    return re.compile("".join(kinds.get(part) or re.escape(part) for part in parts), re.DOTALL)
