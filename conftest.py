"""Loads the fixtures of the suite; the options and hooks come from perfgate's pytest plugin."""

pytest_plugins = [
    "fixtures.serving",
    "fixtures.kernels",
    "fixtures.claims",
    "fixtures.sweep",
    "fixtures.kernelgain",
    "pytester",
]
