"""Evaluate a model in ten lines: 40 questions about simulated people, with and without their histories.

    rft simulate --personas 100 --out out/people
    python examples/evaluate_model.py

The quickstart's base has not learned the form of an answer, so it scores about 0: name a checkpoint of yours.
"""

import sys

import rft

try:
    split = rft.load_split("out/people", "benchmark")
except rft.RftError as error:
    sys.exit(f"error: {error}; make it: rft simulate --personas 100 --out out/people")
model = rft.LocalModel("recipes/quickstart/base", dtype="float32")
summary = rft.evaluate_model(model, split, "out/example_evaluation", limit=40, max_new_tokens=48)
low, high = summary.ci95
blind = summary.controls["blind"].accuracy
print(f"{summary.accuracy:.1%} right (95 % interval {low:.1%} to {high:.1%}) of {summary.n} questions")
print(f"{blind:.1%} without the history; details: out/example_evaluation/report.html")
