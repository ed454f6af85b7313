"""In which state a model serves, and which studies a canary answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from imaging_node.domain.errors import OperatorError, UnknownRecordError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    STOP = "stop"


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
        trusted_code: Of a foreign bundle: the hash of exactly the files that an operator answers
            for; "" for a signed one.
    """

    bundle: str
    name: str
    state: ModelState
    share: float
    manifest_digest: str
    replaced: str
    fault: str
    changed_at: datetime
    trusted_code: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a share of studies lies above 0 and up to 1, not at {self.share}")

    def rivals(self, other: ModelRow) -> bool:
        """Whether only one of two bundles answers: two versions of one model.

        A foreign bundle answers beside the node's own models whatever it is called, and never in
        the place of one.
        """
        return (self.name, bool(self.trusted_code)) == (
            other.name,
            bool(other.trusted_code),
        ) and self.bundle != other.bundle


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


def promoted(rows: Sequence[ModelRow], bundle: str, share: float | None) -> list[ModelRow]:
    """Rows that change when a bundle becomes primary, or canary for a share of the studies.

    Raises:
        UnknownRecordError: It is not installed, or is what is asked for already.
        OperatorError: The share is none.
    """
    row = _row_of(rows, bundle)
    if share is not None and not 0 < share <= 1:  # what is no number is not below 1 either
        raise OperatorError(
            f"cannot promote {bundle}: a share of the studies lies above 0 and up to 1"
        )
    if share is not None and share < 1:
        if row.state is ModelState.PRIMARY:
            raise UnknownRecordError(
                f"cannot promote {bundle} to canary: it is primary; `imaging-node models shadow`"
                " takes it out of service"
            )
        others = [each for each in _of_state(rows, row.name, ModelState.CANARY) if each.rivals(row)]
        return [
            *(replace(each, state=ModelState.SHADOW, share=1.0) for each in others),
            replace(row, state=ModelState.CANARY, share=share),
        ]
    if row.state is ModelState.PRIMARY:
        raise UnknownRecordError(f"cannot promote {bundle}: it is primary already")
    former = [each for each in _of_state(rows, row.name, ModelState.PRIMARY) if each.rivals(row)]
    return [
        *(replace(each, state=ModelState.RETIRED) for each in former),
        replace(
            row,
            state=ModelState.PRIMARY,
            share=1.0,
            replaced=former[0].bundle if former else "",
        ),
    ]


def shadowed(rows: Sequence[ModelRow], bundle: str) -> list[ModelRow]:
    """Rows that change when a bundle is only to be compared from now on.

    Raises:
        UnknownRecordError: It is not installed, or in shadow already.
    """
    row = _row_of(rows, bundle)
    if row.state is ModelState.SHADOW:
        raise UnknownRecordError(f"cannot change {bundle}: it is in shadow already")
    return [replace(row, state=ModelState.SHADOW, share=1.0)]


def rolled_back(rows: Sequence[ModelRow], name: str) -> list[ModelRow]:
    """Rows that change when the last step up of a model is taken back.

    A canary goes back to shadow; without one, what was primary before is primary again. The last
    primary may have been taken out of service since, by hand or by the stop rule: it stays where
    it was put.

    Raises:
        UnknownRecordError: There is nothing to go back to.
    """
    canaries = _of_state(rows, name, ModelState.CANARY)
    if canaries:
        return [replace(each, state=ModelState.SHADOW, share=1.0) for each in canaries]
    last = _last_primary(rows, name)
    if last is None or not last.replaced:
        raise UnknownRecordError(
            f"cannot roll back {name}: no bundle of that name was primary before;"
            " see `imaging-node models list`"
        )
    state = ModelState.RETIRED if last.state is ModelState.PRIMARY else last.state
    return [
        replace(last, state=state, replaced=""),
        replace(_row_of(rows, last.replaced), state=ModelState.PRIMARY, share=1.0),
    ]


def require_removable(rows: Sequence[ModelRow], bundle: str) -> ModelRow:
    """The row of a bundle that nothing needs.

    Raises:
        UnknownRecordError: It is not installed, answers studies, or is what a rollback would
            bring back.
    """
    row = _row_of(rows, bundle)
    if row.state.may_answer:
        raise UnknownRecordError(
            f"cannot remove {bundle}: it is {row.state}; roll it back or promote another first"
        )
    wanted = [each.bundle for each in rows if each.replaced == bundle]
    if wanted:
        raise UnknownRecordError(
            f"cannot remove {bundle}: a rollback of {wanted[0]} would bring it back"
        )
    return row


def _row_of(rows: Sequence[ModelRow], bundle: str) -> ModelRow:
    for row in rows:
        if row.bundle == bundle:
            return row
    raise UnknownRecordError(f"there is no bundle {bundle!r}; see `imaging-node models list`")


def _last_primary(rows: Sequence[ModelRow], name: str) -> ModelRow | None:
    """Who is primary, or was the last one while nobody is.

    Foreign bundles replace nothing and are passed over.
    """
    own = [row for row in rows if row.name == name and not row.trusted_code]
    primaries = _of_state(own, name, ModelState.PRIMARY)
    if primaries:
        return primaries[0]
    promoted_once = [row for row in own if row.replaced]
    # Of a chain of promotions the last; two that replaced each other are told apart by time.
    replaced = {row.replaced for row in promoted_once}
    ends = [row for row in promoted_once if row.bundle not in replaced] or promoted_once
    return max(ends, key=lambda row: row.changed_at, default=None)


def _of_state(rows: Sequence[ModelRow], name: str, state: ModelState) -> list[ModelRow]:
    return [row for row in rows if (row.name, row.state) == (name, state)]
