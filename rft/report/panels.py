"""Which metrics belong together on a page, and what they are called there: the cards and the charts of `rft report`, and
the sections of the W&B workspace that `launch/wandb_workspace.py` saves.

Invariant: a metric that a run did not log is left out, so that one table serves every kind of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rft.report.pages import INTERVAL


@dataclass(frozen=True)
class Panel:
    """A chart of metrics over steps.

    Attributes:
        title: with the unit, if there is one.
        metrics: what each series is called, by its metric. A metric that ends in / stands for all others that begin so, each
            called by its own end.
        hint: how to read the chart, in a sentence.
        share: the metrics lie between 0 and 1, and are shown in percent.
        chance: what guessing one of four letters gives is drawn.
    """

    title: str
    metrics: Mapping[str, str]
    hint: str
    share: bool = False
    chance: bool = False


HEADLINES = {"reward": "Reward", "loss": "Loss"}
"""What a training is about, by metric: the first that it logs."""

CARDS: dict[str, tuple[str, bool]] = {  # metric: (name, whether it is a share)
    "right_and_consistent/all": ("right and consistent", True),
    "held_out/right_and_consistent": ("right and consistent, held-out people", True),
    "consistent": ("words and box agree", True),
    "mean_token_accuracy": ("tokens predicted right", True),
    "unparsed_rate": ("without a readable answer", True),
    "completions/clipped_ratio": ("cut off at the length limit", True),
    "completions/mean_length": ("tokens of a completion", False),
    "memory/tokens": ("tokens of a memory", False),
    "step_time": ("seconds of a step", False),
}

PANELS: dict[str, tuple[Panel, ...]] = {
    "Results": (
        Panel("Reward", {"reward": "mean", "reward_std": "spread within a group"},
              "GRPO learns from the differences within a group, the completions of one question: no spread, no learning."),
        Panel("Right and consistent, by kind of question",
              {"right_and_consistent/all": "all kinds", "right_and_consistent/blind": "without the history",
               "right_and_consistent/": ""},
              "Share of the completions whose box names the gold letter and whose words name no other option.", share=True,
              chance=True),
        Panel("Words and box",
              {"right/all": "the box is right", "consistent": "words and box agree", "thought_right": "the thought names gold",
               "answer_right": "the answer names gold"},
              "A box that gets better while the words get worse is form, not skill.", share=True),
        Panel("Right and consistent, held-out people",
              {"held_out/right_and_consistent": "all kinds", "held_out/low": f"{INTERVAL}, low",
               "held_out/high": f"{INTERVAL}, high", "held_out/unparsed_rate": "without a readable answer", "held_out/": ""},
              "A fixed set of questions about people it is not trained on, asked now and then.", share=True, chance=True),
        Panel("Lines of memories, held-out people",
              {"held_out/lines_right": "right", "held_out/lines_wrong": "wrong", "held_out/lines_missing": "missing",
               "held_out/lines_extra": "too many"},
              "Memories of people it is not trained on, against what they should say; shares of the lines that should be there.",
              share=True),
        Panel("Loss", {"loss": "loss"}, "In GRPO it stays around zero and says little; in a cold start it should fall."),
        Panel("Tokens predicted right", {"mean_token_accuracy": "right"},
              "Share of the target's tokens that the model ranks first.", share=True),
    ),
    "Form of the answers": (
        Panel("Form", {"unparsed_rate": "without a readable answer", "format_rate": "reasoned, then answered"},
              "An answer without a readable letter counts as wrong.", share=True),
        Panel("Letters named", {"answer_letters/": ""},
              "A model that has learned nothing but a favourite letter shows it here.", share=True),
        Panel("Length of completions, tokens", {"completions/mean_length": "mean", "completions/max_length": "longest"},
              "A length that drifts is often a way to more reward that nobody meant."),
        Panel("Words of a thought", {"thought_words": "mean"}, "A thought that shrinks to a word reasons no more."),
        Panel("Cut off", {"completions/clipped_ratio": "cut off"},
              "Share of the completions that reach the length limit before they end.", share=True),
    ),
    "Memories": (
        Panel("Length of memories and updates, tokens", {"memory/tokens": "last memory", "memory/update_length": "one update"},
              "The last memory is all that the questions are answered from."),
        Panel("Updates not kept", {"memory/cut_rate": "over-long", "memory/empty_rate": "without a line"},
              "The memory before such an update stays.", share=True),
        Panel("Updates of a memory", {"memory/updates": "updates"}, "One for each chunk of the history."),
        Panel("Bonus for memories", {"memory/bonus": "bonus"}, "What the memory rewards add to the reward of the answers."),
    ),
    "How the policy moves": (
        Panel("Entropy, nats", {"entropy": "entropy"},
              "Near zero, every completion of a question is the same, and GRPO stops learning."),
        Panel("Distance to the reference (KL), nats", {"kl": "KL"}, "How far the model has moved from where it began."),
        Panel("Gradient norm", {"grad_norm": "norm"}, "Before clipping."),
        Panel("Learning rate", {"learning_rate": "learning rate"}, "As the schedule has it."),
        Panel("Groups without a difference", {"frac_reward_zero_std": "share of completions"},
              "All completions of a question have the same reward: nothing is learned from them.", share=True),
        Panel("Sampled against trained log-probs", {"sampling/logp_difference_max": "largest difference"},
              "About 1e-5 in float32, more in bfloat16; a jump is a bug."),
    ),
    "Time and cost": (
        Panel("Seconds", {"step_time": "whole step", "time/rollout": "drawing completions", "time/reward": "scoring them"},
              "Where the time of a step goes."),
        Panel("Tokens saved by the prefix tree, times", {"prefix_tree/token_ratio": "fewer tokens"},
              "How many times fewer tokens are computed than one row at a time."),
        Panel("Rewards that failed", {"reward/failed_rows": "share of completions"},
              "Completions that a reward function could not score, through a fault of its own.", share=True),
    ),
}
