"""How models are watched at work, and what takes one out of service."""

from __future__ import annotations

from pydantic import Field, model_validator

from imaging_node.domain.watching import FEWEST_SHOWN
from imaging_node.settings.section import Probability, Section


class StopRuleSettings(Section):
    """What moves a model to shadow by itself; without either of its conditions: nothing."""

    lowest_ppv: Probability | None = Field(
        None,
        description="A finding's positive predictive value: the model is stopped once final"
        " labels given since its last change of state speak for a lower one; null: off.",
    )
    labelled: int = Field(
        FEWEST_SHOWN,
        ge=FEWEST_SHOWN,
        description="Studies with a final label and that finding called present before that is"
        " judged.",
    )
    alarm_studies: int | None = Field(
        None,
        ge=1,
        description="Studies over which an alarm over all studies may last before the model is"
        " stopped; null: off.",
    )
    alarm_quantities: tuple[str, ...] = Field(
        (), description='Alarms that count for that, e.g. "input_mean"; empty: all.'
    )

    @model_validator(mode="after")
    def _alarms_need_their_condition(self) -> StopRuleSettings:
        if self.alarm_quantities and self.alarm_studies is None:
            raise ValueError("alarm_quantities: without alarm_studies they stop nothing")
        return self

    @property
    def is_on(self) -> bool:
        """Whether the rule can stop anything."""
        return self.lowest_ppv is not None or self.alarm_studies is not None


class WatchingSettings(Section):
    """How the stream of studies is compared with what a model was made for."""

    every_s: float = Field(
        10, ge=0.5, le=3600, description="Seconds between two looks at new studies."
    )
    reference_studies: int = Field(
        500,
        ge=200,
        le=20000,
        description="First studies that a model without a reference of its own is compared with"
        " from then on.",
    )
    keep_days: int = Field(
        730, ge=1, le=36500, description="Days that what a model saw of an image is kept."
    )
    keep_images: int = Field(
        200000, ge=1000, description="The same as a number of images; the older ones go first."
    )
    stop_rule: StopRuleSettings = Field(
        StopRuleSettings(), description="What moves a model to shadow by itself."
    )
