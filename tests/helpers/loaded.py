"""What the processes of :mod:`tests.helpers.forked` have loaded already."""

import torch
from transformers import AutoModel, BertModel  # noqa: F401  loads what a name alone does not

import trainer.stages.plan  # noqa: F401

torch.set_num_threads(1)
