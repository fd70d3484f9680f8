"""The stage "local" with real language models of transformers: tiny ones, random or taught to say one thing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from chorus.errors import InputError
from chorus.frontend.prompting.asking import Question
from chorus.frontend.prompting.local import LocalModel
from chorus.frontend.registry import make
from chorus.frontend.stages import Runtime

LIST = "1. A person plays a guitar.\n2. A person tunes a guitar.\n3. A person carries a guitar."
WANTED = ["A person plays a guitar", "A person tunes a guitar", "A person carries a guitar"]
CHAT = "{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"


def tokenizer(text: str, chat: bool = False) -> Any:
    """Byte-level pairs of bytes, learned on a text, so that the text is some dozens of tokens and any other can be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<end>", "<user>", "<model>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([text] * 3, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")
    if chat:
        fast.chat_template = CHAT
    return fast


def network(words: int, kind: str = "llama", positions: int = 512) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=words,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=positions,
                bos_token_id=None,
                eos_token_id=0,
                pad_token_id=0,
            )
        )
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=words, n_embd=64, n_layer=2, n_head=4, n_positions=positions, bos_token_id=0, eos_token_id=0)
    )


def save(folder: Path, model: Any, words: Any) -> Path:
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def teach(model: Any, ids: Any, first: int) -> None:
    """Steps until it says what follows the first ``first`` tokens by heart."""
    wanted = ids.clone()
    wanted[:, :first] = -100
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        loss = model(input_ids=ids, labels=wanted).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            return
    raise AssertionError(f"not learned: loss {loss.item():.3f}")


@pytest.fixture(scope="module", params=["llama, chat", "gpt2, plain"])
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that answers the question for three prompts about a guitar, and nothing else."""
    kind, _, manner = str(request.param).partition(", ")
    question = Question().text("guitar", 3, [])
    words = tokenizer(question + LIST, chat=manner == "chat")
    asked = f"<user>{question}<end><model>" if manner == "chat" else f"{question}\n\n1."
    answer = LIST if manner == "chat" else LIST.removeprefix("1.")
    first = words(asked, return_tensors="pt")["input_ids"]
    then = words(answer + "<end>", return_tensors="pt")["input_ids"]
    model = network(len(words), kind)
    teach(model, torch.cat([first, then], 1), first.shape[1])
    return save(tmp_path_factory.mktemp("taught") / kind, model, words)


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that knows nothing."""
    words = tokenizer("A person plays a guitar")
    return save(tmp_path_factory.mktemp("random"), network(len(words), positions=640), words)


@pytest.mark.parametrize("temperature", ["0", "0.1"])
def test_a_model_that_knows_the_answer(taught: Path, temperature: str) -> None:
    stage = make("prompts", f"local={taught}", Runtime(options={"temperature": temperature, "retries": "0"}))
    assert stage.prompts("Guitar", 3) == WANTED
    assert stage.dropped == []
    assert (stage.provenance()["model"], stage.provenance()["asked"]) == (str(taught), 1)


def test_an_answer_that_had_to_stop(taught: Path) -> None:
    stage = make("prompts", f"local={taught}", Runtime(options={"temperature": "0", "retries": "0", "max_tokens": "12"}))
    found = stage.prompts("guitar", 3)
    assert 1 <= len(found) < 3
    assert found == WANTED[: len(found)]  # none that is cut in the middle
    assert stage.dropped[-1].reason == "cut off"


def test_a_random_model_gives_a_clear_error(random: Path) -> None:
    stage = make("prompts", f"local={random}", Runtime(options={"retries": "1", "max_tokens": "20"}))
    with pytest.raises(InputError, match=r"sentences about a person and 'guitar', got none in 2 answers; the last one: '1\."):
        stage.prompts("guitar", 3)
    assert stage.asked == 2


def test_the_seed_decides_and_the_caller_s_numbers_stay(random: Path) -> None:
    def say(seed: int, turn: int = 0, dtype: str = "float32") -> str:
        stage = LocalModel(str(random), Question(), seed=seed, max_tokens=20, temperature=1.0, dtype=dtype)
        return stage.answer("guitar", turn).text

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = say(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert say(1) == first
    assert len({first, say(2), say(1, turn=5)}) == 3
    assert say(1, dtype="bfloat16")


def test_a_question_as_long_as_the_model_reads(tmp_path: Path) -> None:
    words = tokenizer("A")
    folder = save(tmp_path, network(len(words), "gpt2", positions=64), words)
    with pytest.raises(InputError, match="less than the model's 64 tokens, got"):
        make("prompts", f"local={folder}", Runtime()).prompts("guitar", 3)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    words = tokenizer("A person plays a guitar")
    folder = save(tmp_path, network(len(words) - 9), words)
    with pytest.raises(InputError, match="expected a tokenizer of at most the model's"):
        make("prompts", f"local={folder}", Runtime())


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--prompts: expected a hub id, or a folder that save_pretrained wrote; got"):
        make("prompts", f"local={tmp_path / 'none'}", Runtime())
    with pytest.raises(InputError, match=r"--prompts: expected a folder that holds config\.json, got"):
        make("prompts", f"local={tmp_path}", Runtime())
    (tmp_path / "config.json").write_text("{}")
    tokenizer("A").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="expected a language model and its tokenizer, got"):
        make("prompts", f"local={tmp_path}", Runtime())
    with pytest.raises(InputError, match=r"expected local=(PATH|MODEL)"):
        make("prompts", "local", Runtime())


def test_a_broken_weights_file(random: Path, tmp_path: Path) -> None:
    for file in random.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="expected a language model and its tokenizer, got"):
        make("prompts", f"local={tmp_path}", Runtime())


def test_without_the_library(random: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers, which is not installed: pip install '\.\[frontend\]' in a checkout"):
        make("prompts", f"local={random}", Runtime())
