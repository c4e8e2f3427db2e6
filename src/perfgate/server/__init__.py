"""Starts vLLM servers, proves who answers, ends them without a trace, and reads what they say about themselves."""

from perfgate.effects import Effect, FlagReport
from perfgate.server.boot import boot, new_boot_id
from perfgate.server.flags import stale_accepts
from perfgate.server.running import RunningServer, usage_per_token
from perfgate.server.settings import (
    ASKED,
    UNASKED,
    SettingChange,
    moved_defaults,
    moved_settings,
    settings_hash,
)
from perfgate.server.spec import (
    AttachLauncher,
    DockerLauncher,
    LocalLauncher,
    ModelRef,
    ServerSpec,
)

__all__ = [
    "ASKED",
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
    "stale_accepts",
    "usage_per_token",
]
