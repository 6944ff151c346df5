"""Checks before the first step, of what would otherwise fail only after people have judged."""

from __future__ import annotations

import dataclasses
from collections import Counter

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import read_judgments
from darl_opensearch.records.lines import LineKind
from trainer.cycle.config import STAGES_KEY
from trainer.cycle.inputs import CycleInputs
from trainer.cycle.samples import render_catalogue
from trainer.cycle.steps.train import CHOOSING, derive_config
from trainer.data import leakage
from trainer.evaluate.measured import Scale
from trainer.evaluate.systems import open_bundle
from trainer.stages import plan
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData


def check_ahead(inputs: CycleInputs) -> None:
    """Refuse a cycle whose training could not run, or whose gate would refuse any result.

    :raises DarlError: naming the file or key.
    """
    check_gate(inputs)
    check_test(inputs, check_training(inputs))


def check_training(inputs: CycleInputs) -> RunData:
    """Load the model and the first training's data as the training will.

    :return: the data.
    :raises DarlError: for anything that cannot be trained on.
    """
    first, table = inputs.first, inputs.config.train
    folder = first.path.parent
    config = derive_config(table, first, inputs.serving, folder, version=inputs.serving.card.version, with_ood_dev=True)
    tokenizer = plan.load_model(config, folder).tokenizer()
    data = read_data(dataclasses.replace(config, data=first.config.data), folder, tokenizer)
    plan.check_data(config, data, where=str(folder / first.config.data.judgments))
    choosing = [stage for stage in table.stages if stage in CHOOSING]
    if choosing and not (table.ood_dev_share or data.ood_dev):
        raise UsageError(
            f"{STAGES_KEY} lists {choosing[0]}, but [train] ood_dev_share is 0", where=str(first.path),
            todo="raise it, or set [data] ood_dev: the stage chooses by queries kept for early stopping",
        )  # fmt: skip
    return data


def check_gate(inputs: CycleInputs) -> None:
    """Open the serving bundle and the ID test as the gate will, and refuse parts smaller than its minimum.

    :raises DarlError: naming the key, or the invalid line.
    """
    gate, serving = inputs.config.gate, inputs.serving
    scale = serving.card.scale
    Scale.of(scale.gains, gate.cutoffs, gate.relevant_from, where="[gate] relevant_from")
    open_bundle(
        serving.path, lambda renderer: {}, int8=gate.int8, provider=gate.provider, threads=gate.threads
    ).scorer.close()
    blank: Counter[str] = Counter()
    wanted = {line.item_id for line in LineKind().read(inputs.id_test)}
    texts = render_catalogue(inputs.catalogues, serving.renderer, wanted, blank)
    items = {item_id: Item(item_id, text, "") for item_id, text in texts.items()}
    queries = len(read_judgments(inputs.id_test, items, scale.k, blank))
    for part, where, count in (
        ("the ID test", str(inputs.id_test), queries),
        ("the control arm", "[select] control_queries", inputs.config.select.control_queries),
    ):
        if count < gate.min_queries:
            raise UsageError(
                f"{part} has {count} queries, and [gate] min_queries is {gate.min_queries}, so the gate would refuse "
                "any result", where=where, todo="add queries, or lower min_queries",
            )  # fmt: skip


def check_test(inputs: CycleInputs, data: RunData) -> None:
    """Refuse an ID test that shares queries with the training data.

    Queries for early stopping or calibration do not count as trained on.

    :param data: of the first training.
    :raises InputError: naming a query of the test set and its training query.
    """
    test, allow = leakage.Part.of_file(inputs.id_test), inputs.config.gate.allow
    leakage.check_kinds(allow)
    path = inputs.first.path.parent / inputs.first.config.data.judgments
    leaks = leakage.find_leaks(leakage.Part.of_judged(str(path), [*data.train, *data.new]), test)
    for leak in leaks.find_refused(allow):
        shared = leakage.describe_leak(leak, leaks.counts[leak.kind])
        raise InputError(
            f"{shared}, so the gate would refuse any result",
            where=leak.other.where,
            todo=f'take it out of the test set, or write [gate] allow = ["{leak.kind}"]',
        )
