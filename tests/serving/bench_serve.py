"""``vllm bench serve`` without starting Python anew for each run: reads one JSON order a line, answers with a line.

An order has ``arguments`` of the command line and, where the tool is not to make up its own, ``prompts`` (token ids) and ``output_len``.
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
    from vllm.benchmarks.datasets import SampleRequest

    own = serve.get_samples
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        samples = [
            SampleRequest(prompt=prompt, prompt_len=len(prompt), expected_output_len=order["output_len"])
            for prompt in order.get("prompts", ())
        ]
        serve.get_samples = (lambda *_, found=samples, **__: found) if samples else own
        parser = argparse.ArgumentParser()
        serve.add_cli_args(parser)
        asyncio.run(serve.main_async(parser.parse_args(order["arguments"])))
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
