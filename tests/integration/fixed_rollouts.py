"""`rft.train.grpo` or `rft.train.memory_grpo` with completions that follow from the prompt alone, so that
runs of any number of processes compare."""

import sys
import zlib
from random import Random

import torch

from rft.train import activations, grpo, memory_grpo, trl
from rft.train.runner import run_main

SEED = 0


def rollouts(trainer, prompts, longest):
    """The n-th completion of a prompt: words drawn by (prompt, n). Log-probs are not known, and only a metric
    looks at them."""
    seen: dict[tuple, int] = {}
    completions = []
    for prompt in map(tuple, prompts):
        seen[prompt] = seen.get(prompt, 0) + 1
        rng = Random(f"{SEED}-{prompt}-{seen[prompt]}")
        words = rng.randint(4, longest - 1)
        completions.append([rng.randrange(300, 900) for _ in range(words)] + [trainer.ends[0]])
    return [(completion, [0.0] * len(completion)) for completion in completions]


def norm(self, x):
    """Qwen3's norm in the dtype it is given: its own computes in float32, and a run in float64 would not be
    one."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def length(completion_ids, **_):
    """A reward that differs within every group."""
    return [float(len(ids)) for ids in completion_ids]


def length_or_not(completion_ids, question_id, **_):
    """`length` for every second question, by the hash of its id; the same for all answers to the others."""
    return [
        len(ids) * float(zlib.crc32(name.encode()) % 2)
        for ids, name in zip(completion_ids, question_id, strict=True)
    ]


if __name__ == "__main__":
    activations.KEPT_KEYS = 1  # `keep_attention` keeps that of short histories too
    trl.PolicyTrainer.complete = rollouts
    sys.exit(run_main(memory_grpo.train if "--memory_tokens" in sys.argv else grpo.train))
