"""What a training leaves for people: the report, the model card, the merged checkpoint."""

import json

import pandas as pd
import pytest
import torch
from result_rows import result_row, summary_of
from safetensors.torch import load_file, save_file

from rft.errors import CheckpointError, DataError
from rft.records.training import METRICS, Provenance, read_metrics
from rft.report.panels import PANELS
from rft.report.training import write_report
from rft.runs.model_card import write_card
from rft.runs.run_spec import RunSpec
from rft.train.merge import check_loads, merge

HOSTILE = "<script>alert(1)</script>"
ASKED = (
    "Which drink?\n\nThis is a multiple-choice question. Options:\n(a) Tea\n(b) Mate\n(c) Milk\n(d)"
    " Cocoa\nNow think."
)


@pytest.fixture
def run(tmp_path):
    """The output folder of a training, with what a killed run may leave at its end."""
    rows = [
        {
            "step": i,
            "time": i,
            "loss": 1 / i,
            "reward": i / 10,
            "reward_std": 0.1,
            "entropy": 1.0,
            "kl": 0.0,
            "step_time": 2.0,
            "right_and_consistent/neutral_preferences": i / 10,
            "answer_letters/a": 0.5,
            "answer_letters/b": 0.5,
            "unparsed_rate": 0.25,
            "completions/mean_length": 20.0,
            "prefix_tree/token_ratio": 12.0,
        }
        for i in range(1, 6)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / METRICS).write_text(text + '{"step": 6, "rew')
    (tmp_path / "provenance.json").write_text(
        json.dumps({"git_commit": "abc", "versions": {"trl": "1.16.0"}, "data_sha256": "d"})
    )
    (tmp_path / "completions").mkdir()
    pd.DataFrame(
        {
            "step": [5] * 5,
            "question_id": ["q1", "q1", "q1", "q2", "q2"],
            "prompt": [ASKED] * 3 + [HOSTILE] * 2,
            "completion": [
                "<think>Tea.</think>Tea \\boxed{a}",
                "<think>Tea.</think>Mate \\boxed{b}",
                "Mate, I say",
                HOSTILE,
                HOSTILE,
            ],
            "personamem": [1.0, 0.0, 0.0, float("nan"), float("nan")],
            "answer": ["a", "a", "a", None, None],
            "advantage": [1.0, -0.4, -0.6, 0.0, 0.0],
        }
    ).to_parquet(tmp_path / "completions/completions_00005.parquet")
    return tmp_path


def page_of(run):
    write_report(run, run / "page.html")
    return (run / "page.html").read_text().replace("\N{NO-BREAK SPACE}", " ")


def log(run, rows):
    (run / METRICS).write_text("".join(json.dumps({"time": 0.0} | row) + "\n" for row in rows))


def test_the_report_shows_what_was_logged(run):
    assert len(read_metrics(run / METRICS)) == 5  # the line that was cut off is left out
    page = page_of(run)
    assert page.count("role='img'") >= 9
    for expected in (
        "Reward 0.1 to 0.5 in 5 steps",
        "<dt>without a readable answer</dt><dd>25.0 %<small>25.0 % at the start</small></dd>",
        "<dt>seconds per step</dt><dd>2<",
        "Letters named",
        "Entropy",
        "neutral preferences</td>",
        "trl 1.16.0",
        "abc",
        "Not logged by this run: Words and box; Right and consistent, held-out personas; ",
    ):
        assert expected in page
    for raw in ("unparsed_rate", "reward_std", "neutral_preferences", "git_commit"):
        assert raw not in page  # metrics have names
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page  # self-contained
    assert "default-src 'none'" in page and "script-src" not in page


def test_completions_are_marked_right_or_wrong(run):
    log(run, [{"step": 6, "reward": 0.5}])
    page = page_of(run)
    asked = page[page.index("Which drink?") :]
    assert (
        '<li class="gold">(a) Tea<span class="mark right">gold</span><span class="mark'
        ' right">best</span></li>' in asked
    )
    assert '<h4>Best: <span class="right">✓ right</span>' in asked.replace("\n", "")
    assert '<h4>Worst: <span class="wrong">✗ no readable answer</span>' in asked.replace("\n", "")
    assert "personamem 1, advantage +1.00" in asked and "Now think." not in asked
    # what differs most comes first
    assert page.index("Which drink?") < page.index("All have the same reward")
    assert "not scored" not in page  # an open question has no letter to mark
    table = pd.read_parquet(run / "completions/completions_00005.parquet")
    table[table.completion != "Mate, I say"].to_parquet(run / "completions/completions_00005.parquet")
    wrong = page_of(run)
    assert '<h4>Worst: <span class="wrong">✗ wrong</span>' in wrong.replace("\n", "")
    assert '(b) Mate<span class="mark wrong">worst</span>' in wrong


def test_the_completions_of_a_memory_arm_are_shown_without_marks(run):
    log(run, [{"step": 6, "reward": 0.5}])
    pd.DataFrame(
        {
            "step": [6, 6],
            "prompt": ["history 1"] * 2,
            "completion": ["- tea", "- mate"],
            "trajectory": [0.4, 0.9],
            "history_id": ["1"] * 2,
            "advantage": [-1.0, 1.0],
        }
    ).to_parquet(run / "completions/completions_00006.parquet")
    page = page_of(run)
    assert "trajectory 0.9, advantage +1.00" in page and "✓" not in page and "✗" not in page
    assert page.index("- mate") < page.index("- tea")


def test_start_and_end_of_many_steps_are_means(run):
    log(run, [{"step": i, "loss": float(i % 2) + (i > 50)} for i in range(1, 101)])
    page = page_of(run)
    assert (
        "Loss 0.5 to 1.5 in 100 steps" in page and "means of the first and the last 10 logged steps" in page
    )
    assert page.count("role='img'") == 1 and "opacity: 0.35" in page


def test_a_single_logged_step_is_no_change(run):
    log(run, [{"step": 5, "loss": 2.0, "mean_token_accuracy": 0.5}, {"step": 6, "train_loss": 2.0}])
    page = page_of(run)
    assert "Loss 2 after 6 steps" in page and "at the start" not in page and "moving averages" not in page
    assert ">5</text>" in page


def test_values_that_are_no_numbers_are_named(run):
    log(
        run,
        [{"step": i, "loss": float("nan") if i > 3 else 1.0, "grad_norm": float("inf")} for i in range(1, 6)],
    )
    page = page_of(run)
    assert (
        "Not finite numbers, and missing in the curves: grad_norm (5 of 5 steps), loss (2 of 5 steps)."
        in page
    )
    log(run, [{"step": 1, "loss": float("nan")}])
    with pytest.raises(DataError, match="loss is never a finite number"):
        page_of(run)


def test_an_unreadable_provenance_is_named(run):
    log(run, [{"step": 6, "reward": 0.5}])
    (run / "provenance.json").write_text("{")
    with pytest.raises(DataError, match=r"provenance.json: broken JSON .*; remove the file"):
        page_of(run)


def test_what_a_reward_logs_has_a_chart_under_the_name_that_it_chose(run):
    log(run, [{"step": i, "reward": 0.5, f"mine/{HOSTILE}": i / 4, "words": 3.0} for i in (1, 2)])
    page = page_of(run)
    own = page[page.index("<h2>Your own metrics</h2>") :]
    assert own.count('<figure class="card') == 2 and HOSTILE not in page
    assert "<h3>mine/&lt;script&gt;alert(1)&lt;/script&gt;</h3>" in own
    assert '</td><td class="number">0.25</td><td class="number">0.5</td>' in own  # no share: rft cannot know
    assert "<h3>words</h3>" in own and '<td>words</td><td class="number">3</td>' in own
    log(run, [{"step": 1, "reward": 0.5}])
    assert "Your own metrics" not in page_of(run)


def test_rewards_are_told_apart_if_there_are_several(run):
    title = "<h3>Reward of each function</h3>"
    log(run, [{"step": 1, "reward": 0.5, "rewards/personamem/mean": 0.5}])
    assert (
        title not in (page := page_of(run)) and "Reward of each function" not in page
    )  # the same curve twice
    log(run, [{"step": 1, "reward": 0.6, "rewards/personamem/mean": 0.5, "rewards/short/mean": 0.25}])
    shown = page_of(run).split(title)[1]
    assert shown.index("<td>personamem</td>") < shown.index('<td>short</td><td class="number">0.25</td>')


def test_an_odd_panel_takes_the_width_of_two(run):
    page = page_of(run)
    for section in page.split("<h2>")[1:]:
        figures = section.count('<figure class="card')
        assert section.count("card wide") == figures % 2 and section.count("<details open>") == figures % 2


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(DataError, match="no metrics.jsonl with a logged step"):
        write_report(tmp_path, tmp_path / "page.html")


def test_the_folder_of_an_evaluation_is_named_with_its_page(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(DataError, match="the page of an evaluation is its report.html"):
        write_report(tmp_path, tmp_path / "page.html")


def test_panels_and_their_series_have_names_of_their_own():
    panels = [panel for section in PANELS.values() for panel in section]
    assert len({panel.title for panel in panels}) == len(panels)
    for panel in panels:
        names = [metric.series for metric in panel.metrics if not metric.is_family]
        assert panel.metrics and len(set(names)) == len(names) and all(names) and panel.hint.endswith(".")
        assert len({metric.unit for metric in panel.metrics}) == 1


def test_the_card_says_what_was_recorded(tmp_path, caplog):
    identity = RunSpec(
        {"model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "data": "out/data", "learning_rate": 1e-6},
        "d" * 64,
        8,
    )
    (tmp_path / "evaluate/benchmark").mkdir(parents=True)
    (tmp_path / "evaluate/old").mkdir()
    summary = summary_of([result_row(0, 1)], accuracy=0.538, ci95=[0.52, 0.56], n=5000, unparsed_rate=0.01)
    (tmp_path / "evaluate/benchmark/summary.json").write_text(summary.to_text())
    (tmp_path / "evaluate/old/summary.json").write_text('{"accuracy": 0.5}')  # logged and left out
    write_card(
        tmp_path, identity, Provenance(git_commit="abc", versions={"trl": "1.16.0"}, data_sha256="d" * 64)
    )
    assert "evaluate/old/summary.json: key model is missing" in caplog.text
    card = (tmp_path / "README.md").read_text()
    for expected in (
        "base_model: Qwen/Qwen3-4B-Instruct-2507",
        "d" * 64,
        identity.recipe_sha256,
        "learning_rate: 1.0e-06",
        "trl | 1.16.0",
        "| benchmark | 53.8% [52.0%, 56.0%] | 5000 | 1.0% |",
    ):
        assert expected in card


def test_an_adapter_is_merged_into_what_it_was(tiny_checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "adapter")
    found = merge(tmp_path / "adapter", tmp_path / "merged")
    assert found.same == found.tokens >= 4 and found.largest < 1e-4
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, adapted.eval()(ids).logits, atol=1e-4)
    with pytest.raises(CheckpointError, match="is not empty"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    with pytest.raises(CheckpointError, match="no adapter_config.json"):
        merge(tmp_path / "merged", tmp_path / "again")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    (tmp_path / "merged/config.json").write_text(json.dumps({**config, "architectures": ["Strange"]}))
    with pytest.raises(CheckpointError, match="Strange"):
        check_loads(tmp_path / "merged")


@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_tied_embeddings_that_an_adapter_saves_whole(saved, tiny_checkpoint, tmp_path):
    """Embedding and head are one matrix in the base; an adapter that trains either may part them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    assert base.config.tie_word_embeddings
    adapted = get_peft_model(
        base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=saved)
    )
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "adapter")
    found = merge(tmp_path / "adapter", tmp_path / "merged")
    assert found.same == found.tokens >= 4 and found.largest < 1e-4


def test_a_merged_checkpoint_that_says_something_else_is_refused(tiny_checkpoint, tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    get_peft_model(base, LoraConfig(r=4, target_modules="all-linear")).save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "adapter")

    def spoiled(folder):
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: weight * 3 for name, weight in weights.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )

    monkeypatch.setattr("rft.train.merge.check_loads", spoiled)
    with pytest.raises(CheckpointError, match="outputs differ from .*adapter: log-probs differ by"):
        merge(tmp_path / "adapter", tmp_path / "merged")
