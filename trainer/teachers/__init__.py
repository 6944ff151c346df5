"""Teachers, which score pairs for distillation: one kind per file, in a registry."""

from trainer.teachers.base import TEACHERS, TeacherRequest, TeacherFiles, Teacher  # isort: skip
from trainer.teachers import bundle, file, http
from trainer.teachers.base import find_teacher
from trainer.teachers.cache import fetch_scores
from trainer.teachers.normalise import normalise_scores

__all__ = [
    "TEACHERS",
    "TeacherRequest",
    "TeacherFiles",
    "Teacher",
    "bundle",
    "fetch_scores",
    "file",
    "find_teacher",
    "http",
    "normalise_scores",
]
