"""Steps up and back of a model, as decided on what is so."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from imaging_node.domain.errors import OperatorError, UnknownRecordError
from imaging_node.domain.model_state import (
    ModelRow,
    ModelState,
    promoted,
    require_removable,
    rolled_back,
    shadowed,
)
from tests.store.arriving import NOON
from tests.store.model_records import model_row

if TYPE_CHECKING:
    from collections.abc import Callable

OLD, NEW, NEWEST = "chest", "chest@2", "chest@3"


def rows(**states: str) -> list[ModelRow]:
    """Rows by short name of the bundle."""
    named = {"old": OLD, "new": NEW, "newest": NEWEST, "other": "knee"}
    return [model_row(named[each], state=ModelState(state)) for each, state in states.items()]


def after(before: list[ModelRow], changed: list[ModelRow]) -> list[ModelRow]:
    by_bundle = {each.bundle: each for each in changed}
    return [by_bundle.get(each.bundle, each) for each in before]


def states(found: list[ModelRow]) -> dict[str, str]:
    return {each.bundle: str(each.state) for each in found}


def test_one_bundle_of_a_name_is_primary_and_other_names_are_left_alone() -> None:
    before = rows(old="primary", new="shadow", other="primary")
    assert states(after(before, promoted(before, NEW, None))) == {
        OLD: "retired",
        NEW: "primary",
        "knee": "primary",
    }


def test_a_canary_takes_a_share_beside_the_primary_and_another_canary_steps_back() -> None:
    before = rows(old="primary", new="canary", newest="shadow")
    found = after(before, promoted(before, NEWEST, 0.1))
    assert states(found) == {OLD: "primary", NEW: "shadow", NEWEST: "canary"}
    assert found[2].share == 0.1
    wider = after(found, promoted(found, NEWEST, 0.5))
    assert wider[2].share == 0.5
    assert states(after(wider, promoted(wider, NEWEST, 1)))[NEWEST] == "primary"


def test_a_rollback_ends_a_canary_first_then_goes_back_primary_by_primary() -> None:
    found = rows(old="primary", new="shadow", newest="shadow")
    found = after(found, promoted(found, NEW, None))
    found = after(found, promoted(found, NEWEST, 0.5))
    found = after(found, rolled_back(found, "chest"))
    assert states(found) == {OLD: "retired", NEW: "primary", NEWEST: "shadow"}
    found = after(found, promoted(found, NEWEST, None))
    found = after(found, rolled_back(found, "chest"))
    assert states(found) == {OLD: "retired", NEW: "primary", NEWEST: "retired"}
    found = after(found, rolled_back(found, "chest"))
    assert states(found) == {OLD: "primary", NEW: "retired", NEWEST: "retired"}
    with pytest.raises(UnknownRecordError, match="no bundle of that name was primary before"):
        rolled_back(found, "chest")


def test_what_is_so_already_or_not_there_is_refused() -> None:
    before = rows(old="primary", new="shadow")
    wrong: list[Callable[[], object]] = [
        partial(promoted, before, OLD, None),
        partial(promoted, before, OLD, 0.5),
        partial(promoted, before, "absent", None),
        partial(shadowed, before, NEW),
        partial(rolled_back, before, "absent"),
    ]
    for each in wrong:
        with pytest.raises(UnknownRecordError):
            each()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_cannot_be_written(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        model_row(share=share)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_makes_nobody_primary(share: float) -> None:
    with pytest.raises(OperatorError, match="above 0 and up to 1"):
        promoted(rows(old="primary", new="shadow"), NEW, share)


def test_what_answers_or_would_be_brought_back_is_not_removed() -> None:
    before = rows(old="primary", new="canary", newest="shadow")
    for bundle in (OLD, NEW):
        with pytest.raises(UnknownRecordError, match="cannot remove"):
            require_removable(before, bundle)
    assert require_removable(before, NEWEST).bundle == NEWEST
    found = after(before, promoted(before, NEWEST, None))
    with pytest.raises(UnknownRecordError, match=f"a rollback of {NEWEST} would bring it back"):
        require_removable(found, OLD)


def test_a_foreign_bundle_and_a_model_of_the_node_never_replace_each_other() -> None:
    foreign = model_row("lungs", state=ModelState.PRIMARY, trusted_code="0" * 64)
    former = model_row("lungs@1", state=ModelState.PRIMARY)
    rows = [foreign, former, model_row("lungs@2", state=ModelState.SHADOW)]
    found = after(rows, promoted(rows, "lungs@2", None))
    assert states(found) == {"lungs": "primary", "lungs@1": "retired", "lungs@2": "primary"}
    [foreign] = shadowed(found, "lungs")
    assert states(promoted(after(found, [foreign]), "lungs", None)) == {"lungs": "primary"}
    assert states(promoted(after(found, [foreign]), "lungs", 0.5)) == {"lungs": "canary"}


def test_what_was_primary_is_brought_back_though_its_successor_was_taken_out_of_service() -> None:
    found = rows(old="primary", new="shadow", newest="shadow")
    found = after(found, promoted(found, NEW, None))
    found = after(found, promoted(found, NEWEST, None))
    found = after(found, shadowed(found, NEWEST))
    with pytest.raises(UnknownRecordError, match=f"a rollback of {NEWEST} would bring it back"):
        require_removable(found, NEW)
    found = after(found, rolled_back(found, "chest"))
    assert states(found) == {OLD: "retired", NEW: "primary", NEWEST: "shadow"}
    found = after(found, shadowed(found, NEW))
    found = after(found, rolled_back(found, "chest"))
    assert states(found) == {OLD: "primary", NEW: "shadow", NEWEST: "shadow"}
    assert require_removable(found, NEW).bundle == NEW
    with pytest.raises(UnknownRecordError, match="no bundle of that name was primary before"):
        rolled_back(after(found, shadowed(found, OLD)), "chest")


def test_of_two_that_replaced_each_other_the_last_one_is_rolled_back() -> None:
    found = rows(old="primary", new="shadow")
    found = after(found, promoted(found, NEW, None))
    found = after(found, promoted(found, OLD, None))
    [shadow] = shadowed(found, OLD)
    found = after(found, [replace(shadow, changed_at=NOON + timedelta(minutes=1))])
    assert states(after(found, rolled_back(found, "chest"))) == {OLD: "shadow", NEW: "primary"}
