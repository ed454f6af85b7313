"""Validated settings: sections, the whole, and how they are read."""

from imaging_node.settings.loading import (
    CONFIG_VARIABLE,
    free_environment,
    load_settings,
    settings_schema,
)
from imaging_node.settings.network import (
    AuditSettings,
    CallerSettings,
    DeliverySettings,
    DicomSettings,
    PeerSettings,
    SyslogSettings,
    TlsSettings,
)
from imaging_node.settings.settings import ENVIRONMENT_PREFIX, Settings
from imaging_node.settings.work import ModelSettings, SpoolSettings

__all__ = [
    "CONFIG_VARIABLE",
    "ENVIRONMENT_PREFIX",
    "AuditSettings",
    "CallerSettings",
    "DeliverySettings",
    "DicomSettings",
    "ModelSettings",
    "PeerSettings",
    "Settings",
    "SpoolSettings",
    "SyslogSettings",
    "TlsSettings",
    "free_environment",
    "load_settings",
    "settings_schema",
]
