"""Processor time until a model is loaded, beside `import torch` alone.

Every statement runs in processes of its own, in turn with the others; the
fastest is taken. transformers' own Whisper is the floor for a Whisper.

> python benchmarks/start_up.py results/run results/run_merged
"""

import argparse
import subprocess
import sys

COST = """
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def seconds(statement):
    """Processor time of a statement in a fresh process, s."""
    done = subprocess.run(
        [sys.executable, "-c", statement + COST],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def main():
    """Measure what the command line asks for, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="runs or exported folders")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    whisper = "transformers.models.whisper.modeling_whisper"
    statements = {
        "import torch": "import torch",
        "import transformers' Whisper": f"import {whisper}",
        **{
            f"load_model({name})": "from ser_peft import load_model\n"
            f"load_model({name!r})"
            for name in args.models
        },
    }
    best = dict.fromkeys(statements, float("inf"))
    for _ in range(args.repeats):
        for name, statement in statements.items():
            best[name] = min(best[name], seconds(statement))
    print("| | s | times import torch |\n| --- | --- | --- |")
    for name, cost in best.items():
        print(f"| {name} | {cost:.2f} | {cost / best['import torch']:.1f} |")


if __name__ == "__main__":
    main()
