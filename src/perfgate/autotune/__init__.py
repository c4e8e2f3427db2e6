"""Autotune-key coverage: does vLLM's warm-up reach every Triton key that serving can reach?

`coverage` asks the question for any GPU on a machine without one, `events` and `plugin` watch a live engine.
"""
