"""What a job of a study depends on, and which jobs differ between two studies."""

from collections.abc import Iterable
from typing import Any

from r2a.reruns import Job
from r2a.study import Study, stage_settings

NAMED = ("model", "dataset", "judge", "condition", "decoding")


def settings_of(study: Study, job: Job) -> dict[str, Any]:
    """A job's settings in a study, as its rule takes them from the table of stages."""
    return stage_settings(study, job.stage, **{name: job.wildcards[name] for name in NAMED if name in job.wildcards})


def differing(jobs: Iterable[Job], before: Study, after: Study) -> set[int]:
    """Numbers of the jobs whose settings differ between two studies."""
    return {job.number for job in jobs if settings_of(before, job) != settings_of(after, job)}
