"""What this machine is and how it feels: GPUs by NVML, the fingerprint of a measurement, the probe around a replicate."""

from perfgate.environment.fingerprint import fingerprint, versions
from perfgate.environment.memory import DeviceUse, device_use, kept_memory
from perfgate.environment.nvml import CPU, Gpu, detect_gpus, entry_of, gpu_devices, match_gpu
from perfgate.environment.probe import ProbeLimits, gpu_energy_j, probe, void_reasons

__all__ = [
    "CPU",
    "DeviceUse",
    "Gpu",
    "ProbeLimits",
    "detect_gpus",
    "device_use",
    "entry_of",
    "fingerprint",
    "gpu_devices",
    "gpu_energy_j",
    "kept_memory",
    "match_gpu",
    "probe",
    "versions",
    "void_reasons",
]
