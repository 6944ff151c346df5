"""The llm backbone: untrained it is the language model's own zero-shot judgment."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.scoring.encode import pad_batch
from tests.helpers.joint_bases import CHAT, PAIRS, PROMPT, columns, configured, write_classifier, write_decoder
from trainer.models import LlmReranker
from trainer.models.prompt import DEFAULT, find_first_tokens, split_prompt, tokenise_frame
from trainer.models.sources import load_tokenizer

KINDS = ("qwen2", "qwen3", "llama")
WORDS = ("none", "some", "fits")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    return {kind: write_decoder(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(folders):
    return {kind: LlmReranker.from_base(configured("llm", folders[kind]), "nominal") for kind in KINDS}


@torch.no_grad()
def judged_by(folder, texts, words):
    """Softmax over the words' logits after each whole prompt, by plain transformers, one text at a time."""
    from transformers import AutoModelForCausalLM

    tokenizer, model = load_tokenizer(str(folder)), AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = [tokenizer(word)["input_ids"][0] for word in words]
    rows = []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        rows.append(model(input_ids=torch.tensor([ids])).logits[0, -1, tokens].softmax(0))
    return torch.stack(rows)


SHORT = [pair for pair in PAIRS if len(pair[1]) < 40]  # whole: nothing is cut


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_it_is_the_model_s_zero_shot_judgment(kind, folders, models):
    prompts = [PROMPT.format(grades="none, some, fits", query=q, item=i) for q, i in SHORT]
    wanted = judged_by(folders[kind], prompts, WORDS)
    with torch.no_grad():
        found = models[kind].pair_features(*columns(SHORT))
        raw = models[kind].head(found.head_input)
    assert_close(models[kind].head.grade_probs(raw), wanted, atol=1e-5, rtol=1e-4)
    assert_close(models[kind].head.score(raw), wanted @ torch.tensor([0.0, 0.5, 1.0]), atol=1e-5, rtol=1e-4)
    assert wanted.std(0).max() > 1e-3  # a constant would be easily equal
    assert_close(found.halves[0], found.head_input / found.head_input.norm(dim=1, keepdim=True))


def test_a_text_alone_has_the_tokens_it_has_in_the_prompt(folders, models):
    tokenizer = load_tokenizer(str(folders["llama"]))
    for query, item in SHORT:
        whole = tokenizer(PROMPT.format(grades="none, some, fits", query=query, item=item))["input_ids"]
        assert models["llama"].tokenizer().encode(query, item).ids == whole


def test_the_frame_is_never_cut(models):
    tokenizer = models["qwen2"].tokenizer()
    short, long = tokenizer.encode("a", "b"), tokenizer.encode("fire " * 400, "garden " * 400)
    frame = tokenizer.num_special_tokens_to_add(True)
    assert len(long.ids) == 16 + 32 + frame == tokenizer.truncation["max_length"]
    start, end = short.sequence_ids.index(0), len(short) - short.sequence_ids.index(1) - 1
    assert long.ids[:start] == short.ids[:start] and long.ids[-end:] == short.ids[-end:]
    for encoding in (short, long):
        first = encoding.sequence_ids.index(1)
        assert encoding.type_ids == [0] * first + [1] * (len(encoding) - first)
        between = [i for i, side in enumerate(encoding.sequence_ids) if side == 0][-1] + 1
        assert tokenizer.decode(encoding.ids[between:first], skip_special_tokens=False) == "\nItem:\n"


def test_chat_template_and_words_of_their_own(tmp_path):
    folder = write_decoder(tmp_path / "chat", "qwen3", chat=CHAT)
    config = configured("llm", folder, llm={"grade_words": ["A", "B", "C"]})
    model = LlmReranker.from_base(config, "nominal")
    text = model.tokenizer().decode(model.tokenizer().encode("fire", "bike").ids, skip_special_tokens=False)
    message = PROMPT.format(grades="A, B, C", query="fire", item="bike")
    assert text == f"<|user|>{message}</s><|assistant|>\n"
    with torch.no_grad():
        probs = model.head.grade_probs(model.head(model.pair_features(["fire"], ["bike"]).head_input))
    assert_close(probs, judged_by(folder, [text], "ABC"), atol=1e-5, rtol=1e-4)
    plain = LlmReranker.from_base(configured("llm", folder, llm={"chat": False}), "nominal")
    assert "user" not in plain.tokenizer().decode(plain.tokenizer().encode("a", "b").ids)


def test_first_token_of_the_sequence(folders):
    """A tokenizer that begins every text with a token of its own begins the prompt with it, and no chat."""
    from tokenizers import processors

    tokenizer = load_tokenizer(str(folders["llama"]))
    parts = split_prompt(PROMPT, WORDS, tokenizer, chat=True)
    assert tokenise_frame(parts, tokenizer, chat=True).before == tuple(tokenizer(parts[0])["input_ids"])
    begin = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    tokenizer.backend_tokenizer.post_processor = begin
    without = tuple(tokenizer(parts[0], add_special_tokens=False)["input_ids"])
    assert tokenise_frame(parts, tokenizer, chat=True).before == (0, *without)
    tokenizer.chat_template = CHAT
    assert tokenise_frame(parts, tokenizer, chat=True).before == without
    assert tokenise_frame(parts, tokenizer, chat=False).before == (0, *without)


class Words:
    """A tokenizer of whole words, a blank being the beginning of the next one."""

    def __call__(self, text, add_special_tokens=False):
        import re

        return {"input_ids": [hash(part) for part in re.findall(r" ?[^\s]+|\s", text)]}

    def convert_ids_to_tokens(self, token):
        return f"#{token}"


@pytest.mark.parametrize(("after", "glue"), [("Grade:", " "), ("Grade:\n", ""), ("", "")])
def test_a_blank_before_the_word_where_the_prompt_ends_in_none(after, glue):
    assert find_first_tokens(WORDS, after, Words()) == [hash(glue + word) for word in WORDS]


def test_grade_words_that_cannot_be_told_apart(folders):
    with pytest.raises(UsageError, match="the grade words 'none' and 'nothing' both begin with the token 'n'") as told:
        LlmReranker.from_base(
            configured("llm", folders["qwen2"], llm={"grade_words": ["none", "nothing", "fits"]}), "nominal"
        )
    assert "[llm] grade_words" in told.value.todo and "A, B, C" in told.value.todo
    with pytest.raises(UsageError, match=r"\[llm\] grade_words has 2 words for 3 grades"):
        LlmReranker.from_base(configured("llm", folders["qwen2"], llm={"grade_words": ["A", "B"]}), "nominal")
    with pytest.raises(UsageError, match=r"\[llm\] grade_words holds ' ', which has no token"):
        LlmReranker.from_base(configured("llm", folders["qwen2"], llm={"grade_words": ["A", " ", "C"]}), "nominal")


@pytest.mark.parametrize("prompt", ["{query}", "{item}", "{item} {query}", "{query} {query} {item}", "none"])
def test_a_prompt_without_its_texts(folders, prompt):
    with pytest.raises(UsageError, match=r"\[llm\] prompt must hold \{query\} once and \{item\} once after it"):
        LlmReranker.from_base(configured("llm", folders["qwen2"], llm={"prompt": prompt}), "nominal")


def test_the_built_in_prompt():
    before, between, after = split_prompt(DEFAULT, WORDS, None, chat=False)
    assert "none, some, fits" in before and between == "\nItem:\n" and after.endswith("Grade:")
    assert before.endswith("\n")  # each text begins a line: its tokens are the same alone


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_do_not_move_a_row(models, kind):
    model = models[kind]
    with torch.no_grad():
        alone = torch.cat([model.pair_features(*columns([pair])).head_input for pair in PAIRS])
        together = model.pair_features(*columns()).head_input
        fed = {name: torch.tensor(v) for name, v in pad_batch(model.tokenizer().encode_batch(PAIRS)).items()}
        padded = model.forward_features(*(torch.nn.functional.pad(v, (0, 9)) for v in fed.values())).head_input
        with model.exporting():
            traced = model.forward_features(*fed.values()).head_input
    index = torch.arange(len(PAIRS))[:, None].expand(-1, 2)
    table = model.feature_table(*columns(), index)
    for other in (together, padded, traced, table.head_input):
        assert_close(other, alone, atol=1e-5, rtol=1e-5)
    assert_close(table.expand().halves[0].norm(dim=1), torch.ones(len(PAIRS)))


def test_what_is_no_decoder(tmp_path, bases, folders):
    encoder = write_classifier(tmp_path / "bert", "bert")
    with pytest.raises(UsageError, match="it does not read from left to right") as told:
        LlmReranker.from_base(configured("llm", encoder), "nominal")
    assert told.value.where == str(encoder) and 'backbone = "cross"' in told.value.todo
    with pytest.raises(InputError, match="cannot be loaded"):
        LlmReranker.from_base(configured("llm", tmp_path / "nothing"), "nominal")
    short = write_decoder(tmp_path / "short", "qwen2", max_position_embeddings=40)
    with pytest.raises(UsageError, match="positions"):
        LlmReranker.from_base(configured("llm", short), "nominal")


@pytest.mark.parametrize(
    ("table", "key", "value", "what"),
    [
        ("lora", "rank", 0, "rank is 0"),
        ("lora", "alpha", 0.0, "alpha is 0.0"),
        ("lora", "dropout", 1.0, "dropout is 1.0"),
        ("lora", "quantise", "int4", "quantise is 'int4'"),
        ("llm", "words", [], r"unknown key \[llm\] words"),
    ],
)
def test_values_that_cannot_be(folders, table, key, value, what):
    with pytest.raises(UsageError, match=what):
        configured("llm", folders["qwen2"], **{table: {key: value}})


def test_corn_and_cumulative_heads_start_from_the_words_too(folders):
    """With two grades they are the very softmax."""
    tables = {"grades": {"names": ["none", "fits"]}}
    found = []
    for head in ("nominal", "corn", "cumulative"):
        model = LlmReranker.from_base(configured("llm", folders["qwen3"], **tables), head)
        with torch.no_grad():
            found.append(model.head.grade_probs(model.head(model.pair_features(*columns(SHORT)).head_input)))
    assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    assert_close(found[2], found[0], atol=1e-5, rtol=1e-4)


def test_saved_it_names_its_parts(models, tmp_path):
    models["qwen2"].save(tmp_path)
    said = json.loads((tmp_path / "backbone.json").read_text())
    assert (said["backbone"], said["head"], said["lora"]["rank"]) == ("llm", "nominal", 16)
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".json", ".safetensors"}
