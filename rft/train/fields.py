"""The recipe fields that every training has beside its trainer's own: how a run is guarded, and what may change in a resume."""

from dataclasses import dataclass, field


@dataclass
class RunFields:
    """Mixed in before a TrainingArguments class."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print the resolved recipe, the batch in words and the memory a process needs, and train nothing. Exit "
            "code 1 where it does not fit."
        },
    )
    dry_run_on: str | None = field(
        default=None, metadata={"help": "A machine other than this to dry-run for: LAYOUT:PROCESSES:GIB such as zero3:8:80."}
    )
    allow_change: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields in which this run may differ from the checkpoint it resumes; data_sha256 for the data."},
    )
    stall_minutes: float = field(
        default=60.0,
        metadata={
            "help": "A process in which nothing happens for so long (no micro-batch and no checkpoint ends) names its rank, "
            "prints its stacks and ends the run; 0 waits for ever."
        },
    )
    muon: bool = field(
        default=False,
        metadata={
            "help": "Train the matrices of the hidden layers with Muon, all else with AdamW (replaces `optim`); not under "
            "DeepSpeed or FSDP."
        },
    )
