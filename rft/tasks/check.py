"""`rft data check`: all checks of a dataset that need no GPU.

Invariant: the printed report and the returned dict agree, and the dict is plain JSON. An error means that the
data cannot be used as it is. A warning means that results on the data can be misleading; with `--strict` it
makes the check fail. A note is for information only. If one split cannot be read, the other splits are still
reported.
"""

import argparse
import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rft.data.private import plausible_items
from rft.data.prompt import PromptTokens
from rft.data.rules import ERRORS, LEAST, POINTS
from rft.data.tokenizer import load_tokenizer
from rft.errors import DataError
from rft.files import write_atomic
from rft.tasks.audit import prove_label_free, shortcuts, table_rows, telling_rules
from rft.tasks.base import MOST_VALUES, Split, Task
from rft.tasks.jsonl import NOT_IN_HISTORY, is_jsonl
from rft.tasks.load import load_split, locate, split_names, task_named
from rft.tasks.personamem.dataset import HUB_ID, WINDOWS

TRAINING = ("train", "val")
CHARACTERS = "history, characters"
ASKED_BEFORE = "the query is a message of the history"
NOTED = (ASKED_BEFORE, NOT_IN_HISTORY)  # findings that are no warnings
MOST_SHARED = 0.5  # largest share of questions in common, relative to the smaller of two splits
SHOWN = 5  # row numbers listed in a message before "..."


def check(
    source: str | Path,
    *,
    window: str = "32k",
    revision: str | None = None,
    strict: bool = False,
    exclude_personas: Collection[str] = (),
    tokenizer: Any = None,
    console: Any = None,
) -> dict[str, Any]:
    """Reads and checks every split of a dataset, and prints tables of the findings.

    Args:
        source: dataset folder or Hub id.
        window: "32k" or "128k", the histories to read.
        revision: revision of a Hub dataset.
        strict: whether warnings make the check fail.
        exclude_personas: personas to skip in train and val, as in a recipe; benchmark is always read
            completely.
        tokenizer: tokenizer folder, Hub id or object that counts prompt tokens; None: prompt tokens are not
            counted.
        console: rich console; standard output by default.

    Returns:
        A dict with `splits`, `shared_personas`, `notes`, `warnings`, `errors` and `ok`, which is False if
        there is an error or, with `strict`, a warning.

    Raises:
        DataError: if there is no dataset.
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(str(tokenizer), chat=False)
    root = locate(source, revision, window=window)
    if is_jsonl(root) and window == WINDOWS[0]:
        window = ""  # it has histories of one size
    report: dict[str, Any] = {"source": str(source), "window": window, "splits": {}, "shared_personas": {}}
    report |= {"notes": [], "warnings": [], "errors": []}
    splits: dict[str, Split] = {}
    for name in split_names(root):
        excluded = exclude_personas if name in TRAINING else ()
        try:
            splits[name] = load_split(root, name, window or WINDOWS[0], exclude_personas=excluded)
            report["splits"][name] = _read(splits[name], tokenizer, report)
        except DataError as error:
            report["errors"].append(str(error))
    for note in dict.fromkeys(note for split in splits.values() for note in split.notes):
        of = ", ".join(name for name, split in splits.items() if note in split.notes)
        report["notes"].append(f"{of}: {note}")
    _persona_overlap(splits, exclude_personas, report)
    _question_overlap(splits, report)
    report["ok"] = not report["errors"] and not (strict and report["warnings"])
    _print(report, strict, console)
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `rft data check`."""
    parser.add_argument(
        "source", metavar="DIR|HUB_ID", help=f"a dataset folder, or a Hub id such as {HUB_ID}"
    )
    parser.add_argument(
        "--window", choices=WINDOWS, default="32k", help="size of the chat histories (default: %(default)s)"
    )
    parser.add_argument("--strict", action="store_true", help="treat warnings as failures")
    parser.add_argument("--json", metavar="FILE", help="write the findings to this file as JSON")
    parser.add_argument(
        "--exclude-personas",
        metavar="ID",
        nargs="+",
        default=[],
        help="exclude these personas from train and val",
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer folder or Hub id, to count prompt tokens"
    )
    parser.add_argument(
        "--revision", metavar="R", help="revision of a Hub dataset (default: the pinned revision)"
    )


def run(args: argparse.Namespace) -> int:
    """Checks the dataset and prints the findings.

    Returns:
        The exit code: 0 success, 1 warnings with --strict, 2 errors in the data.
    """
    report = check(
        args.source,
        window=args.window,
        revision=args.revision,
        strict=args.strict,
        exclude_personas=args.exclude_personas,
        tokenizer=args.tokenizer,
    )
    if args.json:
        _write_json(Path(args.json), report)
    return 2 if report["errors"] else 0 if report["ok"] else 1


def _read(split: Split, tokenizer: Any, report: dict[str, Any]) -> dict[str, Any]:
    """All findings of one split; notes and warnings are appended to `report`."""
    task = task_named(split.task)
    contents = {id: {m.content.strip() for m in history.turns} for id, history in split.histories.items()}
    personal = {
        item for h in split.histories.values() for m in h.turns for item in plausible_items(m.content)
    }
    found = task.audit(split)
    rows_by_finding = dict(found.rows)
    for question in split.questions:
        history = split.history_of(question)
        question.check()
        prove_label_free(question, history)
        personal.update(plausible_items("\n".join((question.query, *question.options))))
        if history.persona_id and history.persona_id != question.persona_id:
            rows_by_finding.setdefault("the history belongs to another persona", []).append(question.row)
        if question.query in contents[history.id]:
            rows_by_finding.setdefault(ASKED_BEFORE, []).append(question.row)

    report["warnings"] += [f"{split.name}: {warning}" for warning in found.warnings]
    rows = len(split.questions) + len(split.skipped)
    if skipped := [skip.row for skip in split.skipped if not skip.reason.endswith("is excluded")]:
        report["warnings"].append(f"{split.name}: {len(skipped)} of {rows} rows skipped ({_some(skipped)})")
    for finding, where in rows_by_finding.items():
        report["notes" if finding in NOTED else "warnings"].append(
            f"{split.name}: {finding} ({_some(where)})"
        )
    optional = [question for question in split.questions if question.options]
    audit = {**(shortcuts(optional) if optional else {}), **found.figures, "personal_items": len(personal)}
    if optional:
        report["warnings"] += [
            f"{split.name}: a rule that reads no history beats chance ({audit['chance']:.0%}): {rule}; report"
            " its score with every accuracy"
            for rule in telling_rules(audit)
        ]
    return {
        "rows": rows,
        "questions": len(split.questions),
        "skipped": dict(Counter(skip.reason for skip in split.skipped)),
        "skipped_rows": [[skip.row, skip.reason] for skip in split.skipped],
        "personas": len({question.persona_id for question in split.questions}),
        "histories": len(split.histories),
        "labels": _labels(split, task),
        "tokens": _tokens(split, found.tokens, tokenizer),
        "shortcuts": audit,
        "sha256": split.sha256,
    }


def _labels(split: Split, task: Task) -> dict[str, dict[str, int]]:
    """{label: {value: number of questions}}."""
    chosen = task.counted or split.report_by
    names = dict.fromkeys(name for question in split.questions for name in question.labels)
    counts = {
        name: Counter(str(question.labels.get(name, "")) for question in split.questions)
        for name in chosen or names
    }
    return {name: dict(c.most_common()) for name, c in counts.items() if chosen or len(c) <= MOST_VALUES}


def _tokens(split: Split, stated: Sequence[int], tokenizer: Any) -> dict[str, Any]:
    """Lengths as [minimum, median, maximum], in tokens: of histories as stated by the dataset (in characters,
    if it cannot state any), of prompts and their parts as counted by the tokenizer."""
    tokens: dict[str, Any] = {"history, authors": _spread(stated)}
    if not split.window:  # such a dataset states no lengths
        tokens = {
            CHARACTERS: _spread(
                sum(len(message.content) for message in history.messages)
                for history in split.histories.values()
            )
        }
    if tokenizer is not None:
        prompts = PromptTokens(tokenizer)
        history = {id: len(prompts.history_ids(h)) for id, h in split.histories.items()}
        question = {q: len(prompts.question_ids(q)) for q in split.questions}
        tokens["history"] = _spread(history.values())
        tokens["question"] = _spread(question.values())
        tokens["prompt"] = _spread(history[q.history_id] + length for q, length in question.items())
    return tokens


def _persona_overlap(splits: dict[str, Split], excluded: Collection[str], report: dict[str, Any]) -> None:
    """Reports personas shared by splits. A persona in benchmark must be in neither train nor val. In the
    released data, train and val share personas by design."""
    rows = {name: Counter(q.persona_id for q in split.questions) for name, split in splits.items()}
    trained = [name for name in TRAINING if name in rows]
    if "benchmark" in rows:
        for persona in sorted(
            set().union(*(rows[name] for name in trained)) & set(rows["benchmark"]), key=_by_number
        ):
            counts = {name: rows[name][persona] for name in [*trained, "benchmark"] if persona in rows[name]}
            report["shared_personas"][persona] = counts
            where = ", ".join(f"{name} ({count} rows)" for name, count in counts.items())
            report["warnings"].append(
                f"persona {persona} is in both the training and the test data: {where}; "
                f"exclude it from training with --exclude-personas {persona}"
            )
    if len(trained) == 2 and (shared := len(set(rows["train"]) & set(rows["val"]))):
        report["notes"].append(
            f"val shares {shared} of its {len(rows['val'])} personas with train: "
            "it measures new questions, not new people"
        )
    skip_reasons = {skip.reason for name in trained for skip in splits[name].skipped}
    for persona in excluded:
        if f"persona {persona} is excluded" not in skip_reasons:
            report["warnings"].append(
                f"--exclude-personas {persona} is ignored: no such persona in train or val"
            )


def _question_overlap(splits: dict[str, Split], report: dict[str, Any]) -> None:
    """Reports questions that occur twice in a split or in two splits, in any order of their options. Two
    splits that share most of their questions are an error."""
    asked: dict[str, dict[Any, list[int]]] = {name: {} for name in splits}
    for name, split in splits.items():
        for q in split.questions:
            asked[name].setdefault((q.history_id, q.query, frozenset(q.options)), []).append(q.row)
        if twice := [row for rows in asked[name].values() for row in rows[1:]]:
            report["warnings"].append(
                f"{name}: {len(twice)} questions repeat an earlier question of this split, with the same"
                f" options in any order ({_some(sorted(twice))})"
            )
    for one, other in combinations(splits, 2):
        shared = asked[one].keys() & asked[other].keys()
        share = len(shared) / min(len(asked[one]), len(asked[other]))
        rows = sorted(row for key in shared for row in asked[other][key])
        if share > MOST_SHARED:
            report["errors"].append(
                f"{one} and {other} share most questions: {len(shared)} of {len(asked[other])} of {other} are"
                f" also in {one} ({_some(rows)}); do not train on one and evaluate on the other"
            )
        elif shared:
            report["warnings"].append(
                f"{other}: {len(shared)} of its questions are also in {one} ({_some(rows)})"
            )


def _print(report: dict[str, Any], strict: bool, console: Any) -> None:
    from rich.table import Table

    from rft.screen import screen

    console = console or screen()
    splits: list[dict[str, Any]] = list(report["splits"].values())

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def table(title: str, *sections: dict[str, list[str]]) -> None:
        """One row per label, one column per split."""
        grid = Table("", *report["splits"], title=title, title_justify="left", title_style="bold")
        for column in grid.columns[1:]:
            column.justify, column.overflow = "right", "fold"
        for section in sections:
            for label, cells in section.items():
                grid.add_row(label, *cells)
            grid.add_section()
        console.print(grid)

    line(f"{report['source']}{', window ' * bool(report['window'])}{report['window']}", style="bold")
    if splits:
        sizes = ("rows", "questions", "personas", "histories")
        table("Contents", {key: [f"{split[key]:,}" for split in splits] for key in sizes})
        for name, split in report["splits"].items():
            for reason, count in split["skipped"].items():
                rows = [row for row, why in split["skipped_rows"] if why == reason]
                line(f"  {name}: {count} skipped: {reason} ({_some(rows)})")
        labels = [
            {
                f"{key} = {value or '(empty)'}": [
                    f"{split['labels'].get(key, {}).get(value, 0):,}" for split in splits
                ]
                for value in dict.fromkeys(
                    value for split in splits for value in split["labels"].get(key, ())
                )
            }
            for key in dict.fromkeys(key for split in splits for key in split["labels"])
        ]
        table("Questions by label", *labels)
        kinds = dict.fromkeys(kind for split in splits for kind in split["tokens"])
        lengths = {
            kind if kind == CHARACTERS else f"{kind}, tokens": [
                _numbers(split["tokens"].get(kind)) for split in splits
            ]
            for kind in kinds
        }
        table("Lengths (minimum, median, maximum)", lengths)
        audits = [split["shortcuts"] for split in splits]
        chances = sorted({f"{audit['chance']:.0%}" for audit in audits if "chance" in audit})
        table(f"Shortcuts (chance {', '.join(chances)})" if chances else "Answers", table_rows(audits))
        if any(cells for audit in audits for cells in audit.get("by", {}).values()):
            line(
                f"Each category shows its value (with at least {LEAST} questions) whose strongest rule is"
                " furthest above chance."
            )
        if chances:
            line(
                f"'telling' means significantly above chance: at least {100 * POINTS:.0f} points above"
                f" chance, and above the threshold of {ERRORS} standard errors after a Bonferroni correction"
                " for the number of rules."
            )
        line(
            "Verified for every split: prompts contain no labels, links stay inside the dataset folder, and"
            " every question with options passes the reward self-check."
        )
    for kind, style in (("notes", "cyan"), ("warnings", "yellow"), ("errors", "red")):
        for text in report[kind]:
            line(f"{kind[:-1]}: {text}", style=style)
    counts = f"{len(report['errors'])} errors, {len(report['warnings'])} warnings{' (strict)' * strict}"
    line(
        f"{'OK' if report['ok'] else 'FAILED'}: {counts}", style="bold green" if report["ok"] else "bold red"
    )


def _write_json(path: Path, report: dict[str, Any]) -> None:
    try:
        write_atomic(path, (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise DataError(
            f"{path}: cannot write the findings: {error.strerror or error}; choose another --json file"
        ) from None


def _spread(counts: Iterable[int]) -> list[int] | None:
    """[minimum, median, maximum]; None if there are no counts."""
    ordered = sorted(counts)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else None


def _numbers(spread: list[int] | None) -> str:
    return "not given" if spread is None else " ".join(f"{n:,}" for n in spread)


def _some(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN])) + (" ..." if len(rows) > SHOWN else "")
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}"


def _by_number(persona: str) -> tuple[int, str]:
    return (int(persona), "") if persona.isdecimal() else (-1, persona)
