"""Model card of a trained checkpoint: base model, data, versions and evaluation results; only recorded
facts."""

import logging
from pathlib import Path

import yaml

from rft.errors import DataError
from rft.records.summary import SUMMARY, read_summary
from rft.records.training import Provenance
from rft.runs.run_spec import RunSpec

logger = logging.getLogger(__name__)


def write_card(folder: Path, identity: RunSpec, provenance: Provenance) -> None:
    """Writes the `README.md` of a checkpoint folder, with the evaluations in its `evaluate`.

    Args:
        folder: the checkpoint folder.
        identity: the spec of the run.
        provenance: git commit and package versions, from `tracking.provenance`.
    """
    base = str(identity.recipe.get("model_name_or_path", "from scratch"))
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rft", "personalization", "grpo"],
        "datasets": [str(identity.recipe.get("data"))],
    }
    if "/" in base and not Path(base).exists():
        front["base_model"] = base
    recipe = yaml.safe_dump(
        {k: v for k, v in identity.recipe.items() if v not in (None, [], {})}, allow_unicode=True
    )
    lines = [
        "---",
        yaml.safe_dump(front).rstrip(),
        "---",
        f"# {folder.resolve().name}",
        "",
        f"Trained from `{base}` on `{identity.recipe.get('data')}` with rft.",
        "",
        "| | |",
        "|---|---|",
        f"| data sha256 | `{identity.data_sha256}` |",
        f"| recipe sha256 | `{identity.recipe_sha256}` |",
        f"| processes | {identity.processes} |",
        f"| commit | `{provenance.git_commit}` |",
        *(f"| {name} | {version} |" for name, version in provenance.versions.items()),
        "",
        "## Evaluation",
        "",
        *_table(folder / "evaluate"),
        "",
        "## Recipe",
        "",
        "```yaml",
        recipe.rstrip(),
        "```",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _table(evaluations: Path) -> list[str]:
    rows = []
    for folder in sorted(evaluations.glob("*")):
        if not (folder / SUMMARY).exists():
            continue
        try:
            summary = read_summary(folder)
        except DataError as error:  # must not end a training
            logger.warning("model card: %s", error)
            continue
        if summary.accuracy is not None and summary.ci95 is not None:
            low, high = summary.ci95
            accuracy = f"{summary.accuracy:.1%} [{low:.1%}, {high:.1%}]"
            rows.append(f"| {folder.name} | {accuracy} | {summary.n} | {summary.unparsed_rate:.1%} |")
    if not rows:
        return ["Not evaluated yet: `rft evaluate --model THIS_FOLDER --out THIS_FOLDER/evaluate/NAME ...`."]
    return ["| | accuracy [95 %] | questions | unparsed |", "|---|---|---|---|", *rows]
