"""What often lies in place of a file: an error page, a Git LFS pointer, nothing."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = 512
"""Bytes that tell."""
PLACEHOLDERS = (
    ("is empty", re.compile(rb"\s*\Z")),
    (
        "is a pointer of Git LFS, not the file itself (git lfs pull gets that)",
        re.compile(rb"version https://git-lfs"),
    ),
    (
        "is an HTML page, as a server sends in place of a file",
        re.compile(rb"\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.I | re.S),
    ),
    (
        "is an XML document, as a server sends in place of a file",
        re.compile(rb"\s*<(\?xml|error)\b", re.I),
    ),
    (
        "is JSON, as a server sends in place of a file",
        re.compile(rb'\s*[{[]\s*("|\{|\[|\]|\})'),
    ),
)


def placeholder(content: Path | bytes) -> str:
    """What a file, or its first bytes, is in place of data, as a clause; or ""."""
    try:
        if isinstance(content, Path):
            with content.open("rb") as file:
                content = file.read(HEAD)
    except OSError:
        return ""
    head = content[:HEAD].removeprefix(b"\xef\xbb\xbf")
    return next((clause for clause, pattern in PLACEHOLDERS if pattern.match(head)), "")
