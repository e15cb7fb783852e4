"""Neutralizes control markup in dataset text, so that tokenizers and chat templates read it as plain text.

A tokenizer turns `<|im_start|>` inside a chat into the token that opens a message, so a chat could forge a
system message. Qwen3's chat template drops the text before a `</think>` in earlier messages. Therefore,
prompts and targets contain such a mark with a space after its first character ("< |im_start|>"), which people
and models can still read. Histories and questions keep their original text.
"""

import re

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


def inert(text: str) -> str:
    """Returns the text with its control marks broken up and everything else unchanged."""
    return MARKUP.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)
