"""`rft.train.grpo` with completions that follow from the prompt alone, so that runs of any number of
processes compare."""

import sys
from random import Random

from rft.train import grpo, trainer
from rft.train.runner import run_main

SEED = 0


def rollouts(trainer, prompts, *_):
    """The n-th completion of a prompt: words drawn by (prompt, n). Log-probs are not known, and only a metric
    looks at them."""
    seen: dict[tuple, int] = {}
    completions = []
    for prompt in map(tuple, prompts):
        seen[prompt] = seen.get(prompt, 0) + 1
        rng = Random(f"{SEED}-{prompt}-{seen[prompt]}")
        words = rng.randint(4, trainer.max_completion_length - 1)
        completions.append([rng.randrange(300, 900) for _ in range(words)] + [trainer.eos_token_ids[0]])
    return completions, [[0.0] * len(completion) for completion in completions]


def length(completion_ids, **_):
    """A reward that differs within every group."""
    return [float(len(ids)) for ids in completion_ids]


if __name__ == "__main__":
    trainer.HistoryGRPOTrainer._generate_single_turn = rollouts
    sys.exit(run_main(grpo.train))
