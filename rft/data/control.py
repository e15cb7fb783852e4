"""Neutralizes control markup in dataset text, so that tokenizers and chat templates read it as plain text.

A tokenizer turns `<|im_start|>` inside a chat into the token that opens a message, so a chat could forge a
system message. Qwen3's chat template drops the text before a `</think>` in earlier messages. Therefore,
prompts and targets contain such a mark with a space after its first character ("< |im_start|>"), which people
and models can still read. Histories and questions keep their original text.

MARKUP lists the marks of common families, for texts that are written without a tokenizer. If there is a
tokenizer, its own special tokens are broken up too, whatever they look like.
"""

import re
from typing import Any

MARKUP = re.compile(
    r"<\|[^\s<>|]{1,64}\|>"  # ChatML, Llama 3, Phi, GPT-OSS
    r"|<\uff5c[^\s<>\uff5c]{1,64}\uff5c>"  # DeepSeek
    r"|</?(?:think|s|unk|pad|bos|eos|mask|tool_call|tool_response)>"
    r"|<(?:start|end)_of_turn>"  # Gemma
    # StarCoder, SmolLM2
    r"|<(?:repo_?name|file_sep|filename|gh_stars|issue_(?:start|comment|closed)|empty_output)>"
    r"|<jupyter_(?:start|text|code|output|script)>"
    # Mistral, Llama 2
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]|<</?SYS>>"
)
"""Control marks of common chat template families."""


OPEN, CLOSE = "<think>", "</think>"
"""The tags that prompts and targets of rft contain themselves."""


def inert(text: str, marks: re.Pattern[str] = MARKUP) -> str:
    """Returns the text with its control marks broken up and everything else unchanged."""
    return marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)


def inert_messages(conversation: list[dict[str, str]], marks: re.Pattern[str]) -> list[dict[str, str]]:
    """Returns messages with the marks in their contents broken up."""
    return [message | {"content": inert(message["content"], marks)} for message in conversation]


def special_marks(tokenizer: Any) -> re.Pattern[str]:
    """Returns a pattern of a tokenizer's special tokens, but for the think tags and for tokens that a space
    cannot break up: those of one character or of white space."""
    texts = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    breakable = [text for text in texts - {OPEN, CLOSE} if len(text.strip()) > 1]
    longest_first = sorted(breakable, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing
