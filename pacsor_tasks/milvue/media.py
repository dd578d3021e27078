"""Media types, read as RFC 2045 says: case, quotes, parameters in any order."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message


@dataclass(frozen=True, slots=True)
class MediaType:
    """A Content-Type value. `name` is lower case and "" when there is none."""

    name: str
    boundary: str | None = None
    #: the `type` parameter of multipart/related, lower case
    root: str | None = None

    @classmethod
    def parse(cls, value: str) -> MediaType:
        """Read a Content-Type header; an unreadable one has an empty name."""
        name = value.partition(";")[0].strip().lower()
        if name.count("/") != 1:
            return cls("")
        message = Message()
        message["Content-Type"] = value
        boundary, root = _parameter(message, "boundary"), _parameter(message, "type")
        return cls(name, boundary, root.lower() if root else None)

    @property
    def is_json(self) -> bool:
        """Whether the body is JSON."""
        return self.name == "application/json" or self.name.endswith("+json")

    @property
    def is_multipart(self) -> bool:
        """Whether the body has parts."""
        return self.name.startswith("multipart/")

    @property
    def is_dicom(self) -> bool:
        """Whether the body is one DICOM instance, as it is or gzipped."""
        return self.name in {"application/dicom", "application/dicom+gzip"}

    @property
    def is_gzipped(self) -> bool:
        """Whether the body itself, not its transfer, is gzipped."""
        return self.name.endswith("+gzip")


def _parameter(message: Message, name: str) -> str | None:
    value = message.get_param(name)
    if isinstance(value, tuple):
        value = value[2]
    return value.strip() or None if isinstance(value, str) else None
