"""Setting of a benchmark: the shape of a model, a batch of rows, a device."""

from dataclasses import dataclass
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "toy": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
    },
    # attention is the same share of its arithmetic at 4k tokens as in the 4B model at 32k
    "tiny": {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 2048,
    },
    "qwen3-4b": {
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
}


@dataclass(frozen=True)
class Setting:
    """One benchmark.

    Attributes:
        model: name of the shape in MODELS.
        device: "cpu" or "cuda".
        dtype: dtype of the weights. With bfloat16 weights, LoRA's adapters are float32 and run under
            autocast.
        prompt_tokens: tokens in the history, or per history chunk of memory trajectories.
        questions: questions per history.
        question_tokens: tokens per question.
        generations: completions per question, or memories per history.
        completion_tokens: tokens per completion.
        checkpointing: whether gradient checkpointing is used.
        keep_attention: whether checkpointed layers keep their attention over long histories.
        lora: whether LoRA adapters are trained instead of all weights.
        chunks: history chunks of memory trajectories.
        memory_tokens: tokens per memory of memory trajectories.
    """

    model: str = "tiny"
    device: str = "cpu"
    dtype: str = "float32"
    prompt_tokens: int = 4096
    questions: int = 4
    question_tokens: int = 64
    generations: int = 8
    completion_tokens: int = 128
    checkpointing: bool = False
    keep_attention: bool = False
    lora: bool = False
    chunks: int = 4
    memory_tokens: int = 256

    @property
    def shape(self) -> dict[str, Any]:
        """The model's sizes, with the names of its config."""
        return MODELS[self.model]

    @property
    def rows(self) -> int:
        """Number of completions."""
        return self.questions * self.generations

    @property
    def tokens(self) -> int:
        """Number of tokens in the tree of the questions' batch."""
        return self.prompt_tokens + self.questions * self.question_tokens + self.rows * self.completion_tokens
