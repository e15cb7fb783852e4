"""Held-out evaluation of memories during training: writing and answering for a few histories outside the
training data.

Invariant: as for `rft.train.held_out`; each memory is written chunk by chunk before any question is read. Its
lines are compared with the simulator's targets if the dataset has them.
"""

from typing import Any

from rft.evaluate import lines
from rft.memory.agent import MemoryAgent
from rft.tasks.base import Split
from rft.train.held_out import HeldOut


class HeldOutMemories(HeldOut):
    """Held-out questions that are answered from memories of their histories; the arguments are those of
    `HeldOut`."""

    def __init__(
        self, trainer: Any, split: Split, count: int, agent: MemoryAgent, longest: int, at_once: int
    ):
        super().__init__(trainer, split, 0, agent.tokens, longest, at_once)
        self.agent, self.questions = agent, split.questions[:count]

    def write(self) -> dict[str, str]:
        """Writes a memory of each history greedily with the current policy.

        Returns:
            {history id: memory}.
        """
        chunks = {q.history_id: self.agent.chunks(self.split.histories[q.history_id]) for q in self.questions}
        memories = dict.fromkeys(chunks, "")
        for place in range(max(map(len, chunks.values()))):
            writing = [history for history in chunks if place < len(chunks[history])]
            prompts = [
                self.agent.update_ids(chunks[history][place], memories[history]) for history in writing
            ]
            for history, completion in zip(
                writing, self.complete(prompts, self.agent.settings.memory_tokens), strict=True
            ):
                memories[history] = self.agent.accept(completion, memories[history], self.end_ids()).memory
        return memories

    def values(self, seed: int) -> dict[str, float]:
        """Evaluates the current policy.

        Returns:
            The metrics of the answers, and lines_right, lines_wrong, lines_missing and lines_extra as shares
            of the target lines.
        """
        memories = self.write()
        self.prompts = [
            self.agent.answer_ids(question, memories[question.history_id]) for question in self.questions
        ]
        written = lines.of_memories(self.split, memories, seed)
        of_lines = (
            {f"lines_{name}": getattr(written, name) / written.targets for name in lines.VERDICTS}
            if written is not None and written.targets
            else {}
        )
        return super().values(seed) | of_lines
