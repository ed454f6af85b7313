"""The node as designed, and four nodes that are wrong on purpose: each must be caught."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import event
from sqlalchemy.pool import Pool

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

_LIE_FILES, _LIE_FOLDERS = 1, 2


class Variant(StrEnum):
    """What is different from the node that is shipped."""

    AS_DESIGNED = "as designed"
    SYNCHRONOUS_NORMAL = "SQLite synchronous=NORMAL"
    NO_FILE_FSYNC = "no fsync of files"
    NO_FOLDER_FSYNC = "no fsync of folders"
    ACKNOWLEDGE_FIRST = "acknowledge first"

    @property
    def lies(self) -> int:
        """Which fsync the preloaded library swallows."""
        if self is Variant.NO_FILE_FSYNC:
            return _LIE_FILES
        return _LIE_FOLDERS if self is Variant.NO_FOLDER_FSYNC else 0


WRONG = tuple(each for each in Variant if each is not Variant.AS_DESIGNED)


def make_wrong(variant: Variant) -> None:
    """Change what can be changed in this process; the rest is the library's and the listener's."""
    if variant is Variant.SYNCHRONOUS_NORMAL:
        event.listen(Pool, "checkout", _synchronous_normal)


def _synchronous_normal(connection: DBAPIConnection, *_: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
