"""Open a bundle's model in the fastest precision that still answers its golden cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from imaging_node.domain.errors import BundleError, SettingsError
from imaging_node.inference.execution import Execution, Precision, precisions_to_try
from imaging_node.inference.golden import verify_golden
from imaging_node.inference.outputs import LaunchedModel
from imaging_node.inference.runtime import Sessions

if TYPE_CHECKING:
    from imaging_node.inference.bundle import Bundle


class NamedModel(LaunchedModel, Protocol):
    """A model that says what it runs on.

    Attributes:
        providers: Best first; what one cannot compute the next one does.
    """

    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model that answered every golden case on this machine.

    Attributes:
        execution: As it runs.
        refusal: Why a faster precision was not taken; empty when none was tried.
    """

    model: NamedModel
    execution: Execution
    refusal: str

    @property
    def runs_on(self) -> str:
        """Provider and precision, for people."""
        return f"{self.model.providers[0]}, {self.execution.precision}"


def open_model(
    bundle: Bundle, execution: Execution, precision: Precision | Literal["auto"]
) -> OpenedModel:
    """Build the sessions and run the golden cases.

    Args:
        bundle: As loaded and verified.
        execution: Its precision is replaced by the one chosen.
        precision: "auto" takes the provider's reduced one if the golden cases allow it.

    Raises:
        BundleError: A graph does not load, or a golden case fails.
        SettingsError: The provider cannot be used, or not in that precision.
    """
    refusal = ""
    *reduced, last = precisions_to_try(execution.provider, precision)
    for each in reduced:
        try:
            return _opened(bundle, replace(execution, precision=each), refusal)
        except (BundleError, SettingsError) as error:
            refusal = f"{each}: {error}"
    try:
        return _opened(bundle, replace(execution, precision=last), refusal)
    except BundleError as error:
        if last == "f32":
            raise
        raise BundleError(f"{error}; scoring.precision: f32 computes exactly") from error


def _opened(bundle: Bundle, execution: Execution, refusal: str) -> OpenedModel:
    model: NamedModel
    if execution.provider == "openvino":
        # Only where it is asked for: it is large, and an extra.
        from imaging_node.inference.openvino_runtime import OpenVinoModels  # noqa: PLC0415 - above

        model = OpenVinoModels(bundle, execution)
    else:
        model = Sessions(bundle, execution)
    verify_golden(bundle, model, session_sets=execution.in_flight)
    return OpenedModel(model=model, execution=execution, refusal=refusal)
