"""No text of a dataset becomes control: what would be markup to a tokenizer or a chat template reads as plain text.

A tokenizer turns `<|im_start|>` inside a chat into the token that opens a message, so that the chat could forge a system turn;
Qwen3's chat template drops what stands before a `</think>` of an old message. In prompts and targets such a mark is therefore
broken up by a space behind its first character ("< |im_start|>"): people and models still read it. Histories and questions
keep their text as it was.
"""

import re

MARKUP = re.compile(
    r"<\|[^\s<>|]{1,64}\|>"  # ChatML, Llama 3, Phi, GPT-OSS
    r"|<\uff5c[^\s<>\uff5c]{1,64}\uff5c>"  # DeepSeek
    r"|</?(?:think|s|unk|pad|bos|eos|mask|tool_call|tool_response)>"
    r"|<(?:start|end)_of_turn>"  # Gemma
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]|<</?SYS>>"  # Mistral, Llama 2
)
"""The marks of the families of chat templates in use."""


def inert(text: str) -> str:
    """The text with its control marks broken up; any other text as it is."""
    return MARKUP.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)
