"""Names and groups of metrics: the cards and charts of `rft report`, and the sections of the W&B workspace
that `launch/wandb_workspace.py` saves.

Invariant: a metric that a run did not log is left out, so that one table serves every kind of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rft.report.pages import INTERVAL


@dataclass(frozen=True)
class Panel:
    """A chart of metrics over steps.

    Attributes:
        title: the title, with the unit if there is one.
        metrics: {metric: name of its series}. A metric that ends in / selects all other metrics with this
            prefix, and the rest of each key is the name.
        hint: one sentence on how to read the chart.
        share: the metrics are between 0 and 1, and are shown in percent.
        chance: draw the accuracy of guessing a letter.
    """

    title: str
    metrics: Mapping[str, str]
    hint: str
    share: bool = False
    chance: bool = False


HEADLINES = {"reward": "Reward", "loss": "Loss"}
"""{metric: its title} for the headline of a page: the first metric that the run logs is used."""

CARDS: dict[str, tuple[str, bool]] = {  # metric: (name, whether it is a share)
    "right_and_consistent/all": ("right and consistent", True),
    "held_out/right_and_consistent": ("right and consistent, held-out personas", True),
    "consistent": ("words and box agree", True),
    "mean_token_accuracy": ("tokens predicted correctly", True),
    "unparsed_rate": ("without a readable answer", True),
    "completions/clipped_ratio": ("cut off at the length limit", True),
    "completions/mean_length": ("tokens per completion", False),
    "memory/tokens": ("tokens per memory", False),
    "step_time": ("seconds per step", False),
}

PANELS: dict[str, tuple[Panel, ...]] = {
    "Results": (
        Panel(
            "Reward",
            {"reward": "mean", "reward_std": "spread within a group"},
            "GRPO learns from reward differences within a group, the completions of one question. No spread,"
            " no learning.",
        ),
        Panel(
            "Right and consistent, by kind of question",
            {
                "right_and_consistent/all": "all kinds",
                "right_and_consistent/blind": "without the history",
                "right_and_consistent/": "",
            },
            "Share of completions whose box names the gold letter and whose words name no other option.",
            share=True,
            chance=True,
        ),
        Panel(
            "Words and box",
            {
                "right/all": "the box is right",
                "consistent": "words and box agree",
                "thought_right": "the thought names gold",
                "answer_right": "the answer names gold",
            },
            "If the box gets better while the words get worse, the model learns the format, not the task.",
            share=True,
        ),
        Panel(
            "Right and consistent, held-out personas",
            {
                "held_out/right_and_consistent": "all kinds",
                "held_out/low": f"{INTERVAL}, low",
                "held_out/high": f"{INTERVAL}, high",
                "held_out/unparsed_rate": "without a readable answer",
                "held_out/": "",
            },
            "A fixed set of questions about personas outside the training data, evaluated regularly.",
            share=True,
            chance=True,
        ),
        Panel(
            "Lines of memories, held-out personas",
            {
                "held_out/lines_right": "right",
                "held_out/lines_wrong": "wrong",
                "held_out/lines_missing": "missing",
                "held_out/lines_extra": "extra",
            },
            "Memories of personas outside the training data, compared with their targets; shares of the"
            " expected lines.",
            share=True,
        ),
        Panel(
            "Loss",
            {"loss": "loss"},
            "In GRPO the loss stays near zero and says little. In a cold start it should fall.",
        ),
        Panel(
            "Tokens predicted correctly",
            {"mean_token_accuracy": "correct"},
            "Share of target tokens that the model ranks first.",
            share=True,
        ),
    ),
    "Form of the answers": (
        Panel(
            "Form",
            {"unparsed_rate": "without a readable answer", "format_rate": "reasoned, then answered"},
            "An answer without a readable letter counts as wrong.",
            share=True,
        ),
        Panel(
            "Letters named",
            {"answer_letters/": ""},
            "Shows whether the model just answers with a favourite letter.",
            share=True,
        ),
        Panel(
            "Length of completions, tokens",
            {"completions/mean_length": "mean", "completions/max_length": "longest"},
            "A drifting length is often a sign of reward hacking.",
        ),
        Panel(
            "Words per thought",
            {"thought_words": "mean"},
            "If thoughts shrink to a word, the model no longer reasons.",
        ),
        Panel(
            "Cut off",
            {"completions/clipped_ratio": "cut off"},
            "Share of completions that reach the length limit before they end.",
            share=True,
        ),
    ),
    "Memories": (
        Panel(
            "Length of memories and updates, tokens",
            {"memory/tokens": "last memory", "memory/update_length": "one update"},
            "Questions are answered from the last memory only.",
        ),
        Panel(
            "Updates not kept",
            {"memory/cut_rate": "too long", "memory/empty_rate": "empty"},
            "The memory stays as it was before such an update.",
            share=True,
        ),
        Panel("Updates of a memory", {"memory/updates": "updates"}, "One update per chunk of the history."),
        Panel(
            "Bonus for memories",
            {"memory/bonus": "bonus"},
            "What the memory rewards add to the reward of the answers.",
        ),
    ),
    "How the policy moves": (
        Panel(
            "Entropy, nats",
            {"entropy": "entropy"},
            "Near zero, all completions of a question are the same, and GRPO stops learning.",
        ),
        Panel(
            "Distance to the reference (KL), nats",
            {"kl": "KL"},
            "How far the policy has moved from the reference model.",
        ),
        Panel("Gradient norm", {"grad_norm": "norm"}, "Before clipping."),
        Panel("Learning rate", {"learning_rate": "learning rate"}, "As set by the schedule."),
        Panel(
            "Groups without a difference",
            {"frac_reward_zero_std": "share of completions"},
            "Share of completions in groups whose rewards are all equal: nothing is learned from them.",
            share=True,
        ),
        Panel(
            "Sampled against trained log-probs",
            {"sampling/logp_difference_max": "largest difference"},
            "About 1e-5 in float32, more in bfloat16. A jump indicates a bug.",
        ),
    ),
    "Time and cost": (
        Panel(
            "Seconds",
            {"step_time": "full step", "time/rollout": "sampling completions", "time/reward": "scoring them"},
            "How the time of a step is divided.",
        ),
        Panel(
            "Tokens saved by the prefix tree, factor",
            {"prefix_tree/token_ratio": "fewer tokens"},
            "How many times fewer tokens are computed than with separate rows.",
        ),
        Panel(
            "Rewards that failed",
            {"reward/failed_rows": "share of completions"},
            "Completions that a reward function failed to score because of its own error.",
            share=True,
        ),
    ),
}
