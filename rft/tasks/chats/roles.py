"""The roles of messages, by the names that exports, logs and data sets give them, in lower case."""

USER = ("user", "human")
ASSISTANT = ("assistant", "ai", "bot", "chatbot", "model", "gpt", "chatgpt", "bing", "bard")
SPOKEN = dict.fromkeys(USER, "user") | dict.fromkeys(ASSISTANT, "assistant")
"""{name: role in a history}."""
NOT_SPOKEN = {
    "system": "system message",
    "developer": "developer message",
    "tool": "tool output",
    "function": "tool output",
    "observation": "tool output",
    "function_response": "tool output",
    "tool_response": "tool output",
    "function_call": "tool call",
    "tool_call": "tool call",
}
"""{name: why messages of this role are left out}."""
