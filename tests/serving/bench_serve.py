"""``vllm bench serve`` without starting Python anew for each run: reads one JSON list of arguments a line, answers with a line.

Run with the Python of the vLLM under test. What runs is the tool's own ``main_async`` with the tool's own parser; only the imports, which
take longer than a run, happen once.
"""

import argparse
import asyncio
import json
import os
import sys


def main() -> None:
    """Answers ``ready``, then ``done`` after each run; ends with standard input."""
    # The answers have a stream of their own: some releases log to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from vllm.benchmarks import serve

    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        parser = argparse.ArgumentParser()
        serve.add_cli_args(parser)
        asyncio.run(serve.main_async(parser.parse_args(json.loads(line))))
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
