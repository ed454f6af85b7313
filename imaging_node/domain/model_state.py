"""In which state a model serves, and which studies a canary answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

_HASH_SPACE = 2**64
_HASH_BYTES = 8


class ModelState(StrEnum):
    """What is done with a model's scores."""

    SHADOW = "shadow"
    CANARY = "canary"
    PRIMARY = "primary"
    RETIRED = "retired"

    @property
    def is_loaded(self) -> bool:
        """Whether the scorer holds it at all."""
        return self is not ModelState.RETIRED

    @property
    def may_answer(self) -> bool:
        """Whether its scores may leave the node."""
        return self in (ModelState.CANARY, ModelState.PRIMARY)


class ModelAction(StrEnum):
    """What somebody did to an installed bundle."""

    ADD = "add"
    SHADOW = "shadow"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """What the node's database says of one installed bundle.

    Attributes:
        bundle: Name of its folder, "<id>" or "<id>@<version>".
        name: The bundle's id: of all its versions one is primary.
        share: Of the studies that a canary answers, in (0, 1]; 1 for other states.
        manifest_digest: What was added; "" for a bundle that came with the package, which
            changes with it.
        replaced: The bundle that was primary before this one; "" if none was.
        fault: Why the scorer did not take it; "" when it did.
    """

    bundle: str
    name: str
    state: ModelState
    share: float
    manifest_digest: str
    replaced: str
    fault: str
    changed_at: datetime

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a share of studies lies above 0 and up to 1, not at {self.share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """One change as it was recorded.

    Attributes:
        state: After it; None once the bundle is removed.
        former: Before it; None for a new bundle.
        changed_by: User of the operating system, or the part of the node that did it.
        digest: SHA-256 over the bundle's manifest.
    """

    bundle: str
    action: ModelAction
    former: ModelState | None
    state: ModelState | None
    share: float
    digest: str
    reason: str
    changed_by: str
    changed_at: datetime


def is_in_share(study_instance_uid: str, share: float) -> bool:
    """Whether a canary with this share answers a study: the same study always gets the same answer.

    The first 64 bits of the SHA-256 of the Study Instance UID, as a fraction, lie below the
    share. Who chooses UIDs could choose the model: no key is needed, for both are trusted to
    answer.
    """
    fraction = int.from_bytes(sha256(study_instance_uid.encode()).digest()[:_HASH_BYTES], "big")
    return fraction < share * _HASH_SPACE
