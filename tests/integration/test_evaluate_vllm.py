"""`rft evaluate --vllm`: what vLLM is asked, against the local model; vLLM itself cannot run on a CPU."""

import sys
from types import SimpleNamespace

import pytest
from transformers import Qwen3Config

from rft.errors import CheckpointError
from rft.evaluate.model_answers import ModelAnswers
from rft.models.vllm import VLLMModel, tensor_parallel


@pytest.mark.parametrize(("gpus", "used"), [(0, 1), (1, 1), (3, 2), (4, 4), (7, 4), (8, 8), (16, 8)])
def test_vllm_takes_as_many_gpus_as_share_the_heads(caplog, gpus, used):
    # Qwen3-4B's
    assert tensor_parallel(Qwen3Config(num_attention_heads=32, num_key_value_heads=8), gpus) == used
    assert (f"using {used} of {gpus} GPUs" in caplog.text) == (used < gpus)


def test_vllm_gets_the_same_token_ids(checkpoint, model, split, tmp_path, monkeypatch):
    """A stand-in with vLLM's interface that generates with the local model: what is asked of vLLM, and what
    becomes of it."""
    asked = []

    class SamplingParams:
        def __init__(self, **settings):
            self.__dict__.update(settings)

    class LLM:
        def __init__(self, **settings):
            assert settings["enable_prefix_caching"] and settings["generation_config"] == "vllm"
            # the checkpoint's is float32
            assert settings["max_model_len"] == -1 and settings["dtype"] == "bfloat16"
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=4096))

        def generate(self, prompts, settings, use_tqdm):
            asked.extend(settings)
            ids = model.generate(
                [p["prompt_token_ids"] for p in prompts], settings[0].max_tokens, settings[0].temperature
            )
            ends = [made[-1] in settings[0].stop_token_ids for made in ids]
            return [
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(token_ids=tuple(made), finish_reason="stop" if end else "length")
                    ]
                )
                for made, end in zip(ids, ends, strict=True)
            ]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))
    served = VLLMModel(checkpoint)
    questions = split.questions[:4]
    here = ModelAnswers(model, "none", max_new_tokens=12)
    there = ModelAnswers(served, "none", max_new_tokens=12)
    assert there.answer(questions, None) == here.answer(questions, None)
    assert served.end_ids == model.end_ids and served.longest == 4096
    assert {s.temperature for s in asked} == {0.0} and asked[0].seed is None
    ModelAnswers(served, "none", max_new_tokens=4, temperature=1.0).answer(questions, None)
    assert len({s.seed for s in asked[4:]}) == 4
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--vllm needs a full checkpoint"):
        VLLMModel(tmp_path / "adapter")
