"""Teachers: whoever scores pairs for a student to learn from, one kind a file, in a registry."""

from trainer.teachers.base import TEACHERS, Ask, Place, Teacher  # isort: skip
from trainer.teachers import bundle, file, http
from trainer.teachers.base import find_teacher
from trainer.teachers.cache import fetch_scores
from trainer.teachers.normalise import normalised

__all__ = [
    "TEACHERS",
    "Ask",
    "Place",
    "Teacher",
    "bundle",
    "fetch_scores",
    "file",
    "find_teacher",
    "http",
    "normalised",
]
