"""Charts of `rft report` and their sections, which are also those of the W&B workspace that
`launch/wandb_workspace.py` saves.

Invariant: this is layout only. Which metrics a chart shows is said where they are registered
(`rft.metrics.table`); a metric that a run did not log is left out, so one layout serves every kind of
training.
"""

from dataclasses import dataclass

from rft.metrics.metric import Metric
from rft.metrics.table import REGISTRY, named


@dataclass(frozen=True)
class Panel:
    """A chart of metrics over steps.

    Attributes:
        title: the title, with the unit if there is one.
        hint: one sentence on how to read the chart.
        chance: draw the accuracy of guessing a letter.
    """

    title: str
    hint: str
    chance: bool = False

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of the chart."""
        return [metric for metric in REGISTRY.all if metric.panel == self.title]

    @property
    def share(self) -> bool:
        """Whether the metrics are shown in percent."""
        return all(metric.is_share for metric in self.metrics)


HEADLINES = {named("reward").name: "Reward", named("loss").name: "Loss"}
"""{metric: its title} for the headline of a page: the first metric that the run logs is used."""

PANELS: dict[str, tuple[Panel, ...]] = {
    "Results": (
        Panel(
            "Reward",
            "GRPO learns from reward differences within a group, the completions of one question. No spread,"
            " no learning.",
        ),
        Panel(
            "Right and consistent, by kind of question",
            "Share of completions whose box names the gold letter and whose words name no other option.",
            chance=True,
        ),
        Panel(
            "Words and box",
            "If the box gets better while the words get worse, the model learns the format, not the task.",
        ),
        Panel(
            "Right and consistent, held-out personas",
            "A fixed set of questions about personas outside the training data, evaluated regularly.",
            chance=True,
        ),
        Panel(
            "Lines of memories, held-out personas",
            "Memories of personas outside the training data, compared with their targets; shares of the"
            " expected lines.",
        ),
        Panel("Loss", "In GRPO the loss stays near zero and says little. In a cold start it should fall."),
        Panel("Tokens predicted correctly", "Share of target tokens that the model ranks first."),
    ),
    "Form of the answers": (
        Panel("Form", "An answer without a readable letter counts as wrong."),
        Panel("Letters named", "Shows whether the model just answers with a favourite letter."),
        Panel("Length of completions, tokens", "A drifting length is often a sign of reward hacking."),
        Panel("Words per thought", "If thoughts shrink to a word, the model no longer reasons."),
        Panel("Cut off", "Share of completions that reach the length limit before they end."),
    ),
    "Memories": (
        Panel("Length of memories and updates, tokens", "Questions are answered from the last memory only."),
        Panel("Updates not kept", "The memory stays as it was before such an update."),
        Panel("Updates of a memory", "One update per chunk of the history."),
        Panel("Bonus for memories", "What the memory rewards add to the reward of the answers."),
    ),
    "How the policy moves": (
        Panel(
            "Entropy, nats", "Near zero, all completions of a question are the same, and GRPO stops learning."
        ),
        Panel(
            "Distance to the reference (KL), nats", "How far the policy has moved from the reference model."
        ),
        Panel("Gradient norm", "Before clipping."),
        Panel("Learning rate", "As set by the schedule."),
        Panel(
            "Groups without a difference",
            "Share of completions in groups whose rewards are all equal: nothing is learned from them.",
        ),
        Panel(
            "Sampled against trained log-probs",
            "About 1e-5 in float32, more in bfloat16. A jump indicates a bug.",
        ),
    ),
    "Time and cost": (
        Panel("Seconds", "How the time of a step is divided."),
        Panel(
            "Tokens saved by the prefix tree, factor",
            "How many times fewer tokens are computed than with separate rows.",
        ),
        Panel(
            "Rewards that failed",
            "Completions that a reward function failed to score because of its own error.",
        ),
    ),
}
