"""The ways in which a score may be explained once more, on demand."""

from __future__ import annotations

from enum import StrEnum


class ExplanationMethod(StrEnum):
    """Methods of Captum; the values stand in commands, addresses and picture names."""

    INTEGRATED_GRADIENTS = "integrated_gradients"
    GRADIENT_SHAP = "gradient_shap"
    OCCLUSION = "occlusion"
    GRAD_CAM = "grad_cam"
