"""Where the real vLLM keeps its arguments."""
