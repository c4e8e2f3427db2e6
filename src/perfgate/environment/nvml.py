"""The GPUs of this machine as NVML sees them.

Three kinds of machine answer differently and must not be mixed up. A *discrete* GPU gives memory figures; where it answers "not
supported" instead, something is broken. A *unified-memory* GPU (GB10) always answers "not supported": its memory is the system's. A GPU in
*MIG* mode is not used itself: its slices are, each with a name and memory of its own, and none is comparable with the whole.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from perfgate.catalogue import Catalogue, load_catalogue
from perfgate.errors import EnvironmentProbeError
from perfgate.targets import GpuSpec

CPU = "cpu"
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device that a server can be given."""

    index: int
    """NVML's number; CUDA's too when ``CUDA_DEVICE_ORDER=PCI_BUS_ID``."""
    uuid: str
    name: str
    memory_bytes: int | None
    """Its memory; the system's where it is unified; None where nobody says."""
    unified: bool
    """Whether it shares the system's memory."""
    driver: str
    cuda: str | None
    """The newest CUDA version that the driver supports."""
    slice: bool = False
    """Whether it is a MIG slice."""

    @property
    def device(self) -> str:
        """What ``CUDA_VISIBLE_DEVICES`` calls it: its index, or the UUID of a slice."""
        return self.uuid if self.slice else str(self.index)


def import_nvml() -> Any:
    """The NVML bindings; a function of its own so that a fake can stand in."""
    import pynvml

    return pynvml


@contextlib.contextmanager
def nvml_session() -> Iterator[Any]:
    """NVML, initialised; None where the machine has no NVIDIA driver.

    Raises:
        EnvironmentProbeError: there is a driver, but it does not work.
    """
    nvml = import_nvml()
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        yield None
        return
    except nvml.NVMLError as error:
        raise EnvironmentProbeError(
            f"the NVIDIA driver does not answer: {error}",
            remedy="After a driver update, reboot; in a container, start it with the GPUs.",
        ) from error
    try:
        yield nvml
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def detect_gpus(catalogue: Catalogue | None = None, *, visible: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs that a server may use, in NVML's order; none on a machine without an NVIDIA driver.

    Args:
        catalogue: the GPU catalogue, which knows what has unified memory; the shipped one where not given.
        visible: restricts to these devices, as ``CUDA_VISIBLE_DEVICES`` does; that variable where not given.

    Raises:
        EnvironmentProbeError: a GPU is lost, a discrete one gives no memory figures, or the driver does not answer.
    """
    entries = catalogue if catalogue is not None else load_catalogue("gpus")
    chosen = visible if visible is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
    found: list[Gpu] = []
    with nvml_session() as nvml:
        if nvml is None:
            return ()
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        cuda = _cuda(nvml)
        for index in range(int(nvml.nvmlDeviceGetCount())):
            for handle, is_slice in _devices(nvml, index):
                name, uuid, memory = _identify(nvml, index, handle)
                unified = memory is None and is_unified(name, entries)
                if memory is None and not unified:
                    raise EnvironmentProbeError(
                        f"GPU {index} ({name}) gives no memory figures, which on a discrete card means a fault",
                        remedy="Check dmesg for Xid errors and reset the GPU. If it shares the system's memory, "
                        "say unified_memory = true in its [gpus.NAME] entry.",
                    )
                found.append(
                    Gpu(
                        index=index,
                        uuid=uuid,
                        name=name,
                        memory_bytes=psutil.virtual_memory().total if memory is None else memory,
                        unified=unified,
                        driver=driver,
                        cuda=cuda,
                        slice=is_slice,
                    )
                )
    return tuple(found) if chosen is None else _visible(found, chosen)


def gpu_devices(catalogue: Catalogue | None = None) -> tuple[str, ...]:
    """The devices that may be leased, as ``CUDA_VISIBLE_DEVICES`` calls them."""
    return tuple(gpu.device for gpu in detect_gpus(catalogue))


def match_gpu(catalogue: Catalogue) -> str:
    """The catalogue's name of this machine's GPU; ``cpu`` without one.

    Raises:
        EnvironmentProbeError: a GPU that the catalogue does not know, or GPUs of different entries.
    """
    gpus = detect_gpus(catalogue)
    if not gpus:
        return CPU
    names = sorted({gpu.name for gpu in gpus})
    matched = {name: entry_of(name, catalogue) for name in names}
    unknown = [name for name, entry in matched.items() if entry is None]
    if unknown:
        raise EnvironmentProbeError(
            f"no GPU entry matches {unknown[0]!r}",
            remedy=f'Add a [gpus.NAME] table with product_names = ["{unknown[0]}"] to perfgate.toml, or give --gpu.',
        )
    entries = sorted({entry.name for entry in matched.values() if entry is not None})
    if len(entries) > 1:
        raise EnvironmentProbeError(
            f"this machine has GPUs of different kinds: {', '.join(names)}",
            remedy="Choose with CUDA_VISIBLE_DEVICES, or give --gpu.",
        )
    return entries[0]


def entry_of(product: str, catalogue: Catalogue) -> GpuSpec | None:
    """The entry whose product name is the longest beginning of this one; None where none is.

    A MIG slice matches only an entry that names slices: a whole GPU is no measure for it.
    """
    best: tuple[int, GpuSpec] | None = None
    for name in catalogue:
        spec = catalogue[name].parse(GpuSpec)
        for candidate in spec.product_names:
            if not product.casefold().startswith(candidate.casefold()):
                continue
            if " MIG " in product and " MIG " not in candidate:
                continue
            if best is None or len(candidate) > best[0]:
                best = (len(candidate), spec)
    return best[1] if best else None


def devices_by_word(nvml: Any) -> Iterator[tuple[str, Any]]:
    """(what ``CUDA_VISIBLE_DEVICES`` calls it, NVML's handle) of every device."""
    for index in range(int(nvml.nvmlDeviceGetCount())):
        for handle, is_slice in _devices(nvml, index):
            yield (_text(nvml.nvmlDeviceGetUUID(handle)) if is_slice else str(index)), handle


def _devices(nvml: Any, index: int) -> Iterator[tuple[Any, bool]]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        raise _lost(index, error) from error
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
        slices = int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) if current else 0
    except nvml.NVMLError:
        current, slices = 0, 0
    if not current:
        yield handle, False
        return
    for number in range(slices):
        with contextlib.suppress(nvml.NVMLError):  # an instance that was not created
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number), True


def _identify(nvml: Any, index: int, handle: Any) -> tuple[str, str, int | None]:
    try:
        name, uuid = _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError as error:
        raise _lost(index, error) from error
    try:
        return name, uuid, int(nvml.nvmlDeviceGetMemoryInfo(handle).total) or None
    except nvml.NVMLError_NotSupported:
        return name, uuid, None
    except nvml.NVMLError as error:
        raise _lost(index, error) from error


def _lost(index: int, error: Exception) -> EnvironmentProbeError:
    return EnvironmentProbeError(
        f"GPU {index} does not answer: {error}",
        remedy="See dmesg for Xid errors; the GPU must be reset, or the machine rebooted.",
    )


def is_unified(name: str, catalogue: Catalogue) -> bool:
    """Whether a GPU that gives no memory figures shares the system's memory; on any other the same answer is a fault."""
    entry = entry_of(name, catalogue)
    if entry is not None:
        return entry.unified_memory
    # An unknown product: integrated GPUs that run CUDA exist on Arm only.
    return platform.machine() == "aarch64"


def _visible(gpus: Sequence[Gpu], chosen: str) -> tuple[Gpu, ...]:
    """The devices in the order that the variable gives; as for CUDA, the first unknown one ends the list."""
    by_word: Mapping[str, Gpu] = {gpu.device: gpu for gpu in gpus}
    found: list[Gpu] = []
    for word in (part.strip() for part in chosen.split(",")):
        gpu = by_word.get(word) or next((gpu for gpu in gpus if word and gpu.uuid.startswith(word)), None)
        if gpu is None:
            break
        found.append(gpu)
    return tuple(found)


def _cuda(nvml: Any) -> str | None:
    try:
        version = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    except nvml.NVMLError:
        return None
    return f"{version // 1000}.{version % 1000 // 10}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
