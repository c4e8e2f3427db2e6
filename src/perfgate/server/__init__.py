"""Starts vLLM servers, proves who answers, ends them without a trace, and reads what they say about themselves."""

from perfgate.server.boot import boot, new_boot_id
from perfgate.server.flags import Effect, FlagReport
from perfgate.server.running import RunningServer, usage_per_token
from perfgate.server.settings import UNASKED, SettingChange, moved_defaults, moved_settings, settings_hash
from perfgate.server.spec import (
    AttachLauncher,
    DockerLauncher,
    LocalLauncher,
    ModelRef,
    ServerSpec,
)

__all__ = [
    "UNASKED",
    "AttachLauncher",
    "DockerLauncher",
    "Effect",
    "FlagReport",
    "LocalLauncher",
    "ModelRef",
    "RunningServer",
    "ServerSpec",
    "SettingChange",
    "boot",
    "moved_defaults",
    "moved_settings",
    "new_boot_id",
    "settings_hash",
    "usage_per_token",
]
