"""A stand-in for vLLM that serves scripted times: a real HTTP server, booted and stopped like the real one.

It lets tests of the whole path (boot, load, judge) run in seconds with a known truth. What it streams is held against the real vLLM by
tests/process/test_real_vllm.py.
"""

__version__ = "0.0.1"
