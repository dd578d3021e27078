"""How an HTTP API is called, and the settings its errors name."""

from __future__ import annotations

from dataclasses import dataclass

OWNER_HEADER = "x-goog-meta-owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The Milvue API's by default."""

    #: carries the token, after `scheme` and a blank where there is one
    header: str = OWNER_HEADER
    scheme: str = ""
    #: path segments before every route
    root: tuple[str, ...] = ("v3",)
    #: what to look at when the address or the token is wrong
    url_setting: str = "API_URL"
    token_setting: str = "TOKEN"  # noqa: S105 - a name


MILVUE = Dialect()
