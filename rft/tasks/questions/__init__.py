"""Questions about one's own chats, written by an LLM: `rft questions write` (docs/your_questions.md)."""
