"""Checks before the first step for leaks that would make the gate refuse any result."""

from __future__ import annotations

from darl_opensearch.errors import InputError
from trainer.cycle.inputs import CycleInputs
from trainer.data import leakage


def check_test(inputs: CycleInputs) -> None:
    """Refuse an ID test that shares queries with the training data.

    Whole files are compared first, which is quick. Only if they share queries is the first training's split redone:
    queries for early stopping or calibration do not count as trained on.

    :raises InputError: naming a query of the test set and its training query.
    """
    test, allow = leakage.Part.of_file(inputs.id_test), inputs.config.gate.allow
    leakage.check_kinds(allow)
    paths = inputs.first.files("judgments", "new")
    if not any(leakage.find_leaks(leakage.Part.of_file(path), test).find_refused(allow) for path in paths):
        return
    split = inputs.first.read_data(inputs.serving.tokenizer)
    trained = leakage.Part.of_judged(str(paths[0]), [*split.train, *split.new])
    leaks = leakage.find_leaks(trained, test)
    for leak in leaks.find_refused(allow):
        shared = leakage.describe_leak(leak, leaks.counts[leak.kind])
        raise InputError(
            f"{shared}, so the gate would refuse any result",
            where=leak.other.where,
            todo=f'take it out of the test set, or write [gate] allow = ["{leak.kind}"]',
        )
