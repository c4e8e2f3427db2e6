"""Stored baselines: one contract, stores that keep it, and what makes two measurements comparable."""

from perfgate.baseline.comparable import comparable, workload_differences
from perfgate.baseline.contract import BaselineStore, StoredBaseline
from perfgate.baseline.directory import DirectoryStore
from perfgate.baseline.stores import LayeredStore, MemoryStore, ReadOnlyStore

__all__ = [
    "BaselineStore",
    "DirectoryStore",
    "LayeredStore",
    "MemoryStore",
    "ReadOnlyStore",
    "StoredBaseline",
    "comparable",
    "workload_differences",
]
