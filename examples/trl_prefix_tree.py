"""The prefix tree in a plain GRPOTrainer of TRL. Three lines are new, marked 1 to 3; the trainer, its
generation and its loss stay TRL's.

    python examples/trl_prefix_tree.py

Four questions about one history get four completions each: 16 rows that begin with the same tokens. Two steps
are trained with and without the tree; what is printed last is how far their weights are apart.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import rft  # 1

BASE = Path(__file__).parent.parent / "recipes/quickstart/base"
HISTORY = [{"role": "user", "content": f"Note {n}: I like tea, and number {n * n}."} for n in range(20)]
QUESTIONS = ("What do I drink?", "Which number is in note 3?", "Do I like tea?", "How many notes are there?")


def different(completion_ids, **columns):
    """A reward: the number of different tokens."""
    return [float(len(set(ids))) for ids in completion_ids]


def trained(out: str, with_tree: bool) -> GRPOTrainer:
    """Returns the trainer after two steps."""
    args = GRPOConfig(
        output_dir=out,
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=12,
        max_steps=2,
        learning_rate=1e-2,
        optim="sgd",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float64),
        reward_funcs=different,
        args=args,
        train_dataset=Dataset.from_list(
            [{"prompt": [*HISTORY, {"role": "user", "content": q}]} for q in QUESTIONS]
        ),
        processing_class=AutoTokenizer.from_pretrained(BASE),
    )
    if with_tree:
        rft.enable_prefix_tree(trainer.model)  # 2
        trainer._get_per_token_logps_and_entropies = rft.trl_logps(trainer.temperature)  # 3
    trainer.train()
    return trainer


def main(out: str) -> float:
    """Trains both and returns the largest difference between their weights."""
    plain, tree = trained(f"{out}/plain", False), trained(f"{out}/tree", True)
    for trainer, name in ((plain, "plain"), (tree, "tree")):
        print(
            f"{name}: losses", *(f"{row['loss']:.6f}" for row in trainer.state.log_history if "loss" in row)
        )
    pairs = zip(plain.model.parameters(), tree.model.parameters(), strict=True)
    apart = max((a - b).abs().max().item() for a, b in pairs)
    print(f"largest difference between two weights: {apart:.1e}")
    return apart


if __name__ == "__main__":
    if not BASE.is_dir():
        sys.exit(f"error: {BASE}: no such checkpoint; run this file in a checkout of rft")
    main("out/example_trl")
