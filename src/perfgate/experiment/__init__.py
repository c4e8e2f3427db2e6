"""Plans boots and runs, and carries them out: from targets to measurements."""
