"""perfgate tells the people who run vLLM whether it got slower."""

__version__ = "0.1.0"
