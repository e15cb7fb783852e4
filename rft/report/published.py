"""Published results, for reference next to a run. None of them was measured here.

PersonaMem-v2: arXiv 2512.06688, sections 4.1 to 4.3: the official benchmark's 5,000 questions over 32k
histories. Values are shares between 0 and 1; None if not stated.
"""

from typing import NamedTuple

NOTE = "published, not measured here"

# (system, multiple choice, open-ended)
OVERALL: tuple[tuple[str, float | None, float | None], ...] = (
    ("GPT-5-Chat, full history", 0.456, 0.462),
    ("Qwen3-4B after the cold start", 0.350, None),
    ("Qwen3-4B after GRPO (80/20 mix), full history", 0.538, 0.560),
    ("Qwen3-4B after GRPO, agentic memory", 0.552, 0.607),
)
# Mean over the frontier models and both history sizes: (category, value, multiple choice, published spread)
BY_CATEGORY: tuple[tuple[str, str, float, float], ...] = (
    ("pref_type", "stereotypical_pref", 0.489, 0.057),
    ("pref_type", "neutral_preferences", 0.416, 0.033),
    ("pref_type", "anti_stereotypical_pref", 0.330, 0.050),
    ("who", "self", 0.421, 0.049),
    ("who", "others", 0.175, 0.117),
    ("updated", "false", 0.401, 0.027),
    ("updated", "true", 0.354, 0.105),
)


class Published(NamedTuple):
    """The figures of one task, and where they are from."""

    overall: tuple[tuple[str, float | None, float | None], ...] = ()
    by_category: tuple[tuple[str, str, float, float], ...] = ()
    source: str = ""


OF_TASKS = {
    "personamem": Published(
        OVERALL,
        BY_CATEGORY,
        "Published figures are for the official benchmark's 5,000 questions at 32k (arXiv 2512.06688), under"
        " the authors' protocol.",
    )
}
"""{name of the task: its figures}. Other datasets name theirs in dataset.json."""
