"""A code with its scheme and meaning, as results write it (PS3.3 8.8)."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOCAL_SCHEME = "99RADINFER"
"""Designator of our own coding scheme: "99" and at most 16 characters (PS3.16 chapter 8)."""

_LONGEST_VALUE = 64
_LONGEST_SCHEME = 16  # SH, PS3.5 6.2
_LONGEST_MEANING = 64  # LO
_PRINTABLE = re.compile(r"[\x20-\x5b\x5d-\x7e]+")  # ASCII without the backslash
_NO_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedTerm:
    """One concept; all three parts are ASCII, which reads the same in every character set.

    Attributes:
        value: Code value, at most 64 characters.
        scheme: Coding scheme designator, at most 16.
        meaning: English words, at most 64.
    """

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        """Refuse what no code sequence can hold."""
        for text, limit in (
            (self.value, _LONGEST_VALUE),
            (self.scheme, _LONGEST_SCHEME),
            (self.meaning, _LONGEST_MEANING),
        ):
            if not text.strip() or len(text) > limit or not _PRINTABLE.fullmatch(text):
                raise ValueError(f"{text!r} is no part of a code: 1 to {limit} ASCII characters")


def local_term(name: str) -> CodedTerm:
    """Code of our own scheme for a name that nobody coded: never a guess at a public one.

    Raises:
        ValueError: The name has no letter or digit.
    """
    meaning = name.encode("ascii", "replace").decode("ascii").replace("\\", "/").strip()
    value = _NO_WORD.sub("-", meaning.lower()).strip("-")[:_LONGEST_VALUE]
    return CodedTerm(value=value, scheme=LOCAL_SCHEME, meaning=meaning[:_LONGEST_MEANING])
