"""The functions of PersonaMem's labels."""

from rft.tasks.base import Task
from rft.tasks.personamem.audit import audit
from rft.tasks.personamem.labels import TITLES, about, groups, judged, shown
from rft.tasks.personamem.memory_targets import memory_targets
from rft.tasks.personamem.reasoning import named, reasoning

TASK = Task(
    name="personamem",
    groups=groups,
    titles=TITLES,
    crosses={"pref_type_who": "who"},
    shown=shown,
    judged=judged,
    reasoning=reasoning,
    named=named,
    counted=("pref_type", "who", "updated", "scenario"),
    about=about,
    memory_targets=memory_targets,
    audit=audit,
)
