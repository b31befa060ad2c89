"""Model folders as people bring them: a damaged one is one sentence, at whichever door it comes."""

import json
import shutil

import pytest
import torch
from families import family_tokenizer, make_family
from safetensors.torch import load_file, save_file
from support import make_scorer
from tokenizers import Tokenizer

from helpers import models
from helpers.errors import UserError
from helpers.profiles import load_profile
from helpers.reward import ties

REFUSALS = []  # (name, what is done to a good folder, words that the sentence must have)


def damage(words, of="model"):
    def keep(function):
        REFUSALS.append(pytest.param(function, words, of, id=function.__name__))
        return function
    return keep


def edit(path, *gone, **changes):
    """Change keys of a JSON file."""
    content = json.loads(path.read_text())
    for key in gone:
        content.pop(key, None)
    path.write_text(json.dumps(content | changes))


def rewrite(folder, change, name="model.safetensors"):
    """Change the tensors of a safetensors file, a dictionary, in place."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name, {"format": "pt"})


def first_matrix(tensors):
    return next(name for name in sorted(tensors) if "layers.0.self_attn.q_proj" in name)


@damage("config.json")
def no_config(folder):
    (folder / "config.json").unlink()


@damage("config.json is not JSON")
def a_cut_config(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])


@damage("config.json is not JSON")
def an_empty_config(folder):
    (folder / "config.json").write_text("")


@damage("config.json is not JSON")
def a_config_in_bytes(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00\x01")


@damage("config.json is a pointer of Git LFS")
def a_config_that_is_a_pointer(folder):
    (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0")


@damage("config.json holds a list")
def a_config_that_is_a_list(folder):
    (folder / "config.json").write_text("[1, 2]")


@damage("'mamba9'")
def an_unknown_architecture(folder):
    edit(folder / "config.json", model_type="mamba9")


@damage("model_type")
def an_architecture_that_is_a_list(folder):
    edit(folder / "config.json", model_type=["llama"])


@damage("names no model_type")
def no_architecture(folder):
    edit(folder / "config.json", "model_type")


@damage("code of its own")
def code_of_its_own(folder):
    edit(folder / "config.json", model_type="ours",
         auto_map={"AutoConfig": "ours.Config", "AutoModelForCausalLM": "ours.Model"})
    (folder / "ours.py").write_text("raise SystemExit('it was run')")


@damage("config.json")
def sizes_that_are_words(folder):
    edit(folder / "config.json", hidden_size="many")


@damage("config.json")
def no_heads(folder):
    edit(folder / "config.json", num_attention_heads=0)


@damage("model.safetensors is empty")
def weights_of_no_length(folder):
    (folder / "model.safetensors").write_bytes(b"")


@damage("model.safetensors .* is cut off or damaged")
def cut_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@damage("model.safetensors .* is cut off or damaged")
def weights_cut_inside_their_header(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:40])


@damage("model.safetensors .* is cut off or damaged")
def weights_that_are_noise(folder):
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)


@damage("model.safetensors is a pointer of Git LFS")
def weights_that_are_a_pointer(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


@damage("no model.safetensors")
def no_weights(folder):
    (folder / "model.safetensors").unlink()


@damage(r"pytorch_model.bin, and pickled.*save_pretrained")
def pickled_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@damage("q_proj.*is stored as")
def another_shape(folder):
    rewrite(folder, lambda t: t.update({first_matrix(t): torch.zeros(3, 5)}))


@damage("is stored as")
def weights_of_another_size(folder):
    edit(folder / "config.json", intermediate_size=48)


@damage(r"\d of its tensors are not there \(model.layers.0.self_attn.q_proj.weight\)")
def a_missing_tensor(folder):
    rewrite(folder, lambda t: t.pop(first_matrix(t)))


@damage("tensors are not there")
def more_layers_than_weights(folder):
    edit(folder / "config.json", num_hidden_layers=3, layer_types=None)


@damage("tensors are not there")
def names_of_a_wrapper(folder):
    rewrite(folder, lambda t: [t.update({f"_orig_mod.{k}": t.pop(k)}) for k in list(t)])


@damage("q_proj.*not finite")
def weights_that_are_nan(folder):
    rewrite(folder, lambda t: t[first_matrix(t)][0].fill_(float("nan")))


@damage("q_proj.*not finite")
def weights_that_are_infinite(folder):
    rewrite(folder, lambda t: t[first_matrix(t)][0, :1].fill_(-float("inf")))


def in_shards(folder):
    tensors, name = load_file(folder / "model.safetensors"), "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": dict.fromkeys(tensors, name)}))


@damage("names model-00001-of-00001.safetensors, which is not there")
def an_index_of_files_that_are_gone(folder):
    in_shards(folder)
    (folder / "model-00001-of-00001.safetensors").unlink()


@damage("model-00001-of-00001.safetensors lacks the tensor")
def a_shard_without_its_tensor(folder):
    in_shards(folder)
    rewrite(folder, lambda t: t.pop(first_matrix(t)), "model-00001-of-00001.safetensors")


@damage("has no weight_map")
def an_index_of_nothing(folder):
    in_shards(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


@damage("is not JSON")
def an_index_that_is_cut(folder):
    in_shards(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


@damage("nor an index of model-00001-of-00001.safetensors")
def shards_without_an_index(folder):
    in_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


@damage("generation_config.json is not JSON")
def generation_settings_that_are_cut(folder):
    (folder / "generation_config.json").write_text('{"temperature": ')


@damage("is a classifier or a reward model", "language model only")
def a_reward_model_for_a_language_model(folder):
    make_scorer(family_tokenizer("llama"), "llama").save_pretrained(folder)


@damage("holds no tokenizer", "tokenizer")
def no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@damage("tokenizer.json is not JSON", "tokenizer")
def a_cut_tokenizer(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: len(text) // 2])


@damage("tokenizer.json", "tokenizer")
def a_tokenizer_of_another_format(folder):
    (folder / "tokenizer.json").write_text('{"vocab": ["a", "b"]}')


@damage("tokenizer_config.json", "tokenizer")
def a_tokenizer_configuration_that_is_a_list(folder):
    (folder / "tokenizer_config.json").write_text("[]")


@damage("empty vocabulary", "tokenizer")
def a_tokenizer_without_tokens(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content | {"added_tokens": []}))


@damage("empty vocabulary", "tokenizer")
def a_tokenizer_with_special_tokens_only(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {"<s>": 0, "</s>": 1}, "merges": []}
    content["added_tokens"] = [
        token | {"id": i} for i, token in enumerate(content["added_tokens"][:2])]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@damage("no end-of-text token.*eos_token", "tokenizer")
def a_tokenizer_without_an_end(folder):
    edit(folder / "tokenizer_config.json", "eos_token")


@damage("do not belong together", "any")
def a_tokenizer_of_another_model(folder):
    shutil.copy(models.EMBEDDED / "base" / "tokenizer.json", folder / "tokenizer.json")


@damage("do not belong together", "any")
def a_tokenizer_with_more_added_tokens_than_rows(folder):
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.add_tokens([f"word{i}" for i in range(500)])
    inner.save(str(folder / "tokenizer.json"))


@damage("do not belong together", "any")
def a_tokenizer_of_a_much_smaller_model(folder):
    rewrite(folder, lambda t: t.update(
        {"model.embed_tokens.weight": torch.zeros(5000, 32, dtype=torch.bfloat16)}))
    edit(folder / "config.json", vocab_size=5000)


@damage("'/gone/away'.*is not there", "any")
def adapters_whose_base_is_gone(folder):
    adapters(folder, "/gone/away")


@damage("'../gone'.*is not there", "any")
def adapters_whose_base_is_gone_from_beside_them(folder):
    adapters(folder, "../gone")


@damage("base of the .*no config.json", "any")
def adapters_whose_base_is_damaged(folder):
    adapters(folder, str(folder / "base"))
    (folder / "base").mkdir()


@damage("adapter_config.json is not JSON", "any")
def adapters_whose_configuration_is_cut(folder):
    adapters(folder, str(folder))
    (folder / "adapter_config.json").write_text("{")


def adapters(folder, base):
    (folder / "adapter_config.json").write_text(json.dumps(
        {"base_model_name_or_path": base, "peft_type": "LORA", "task_type": "SEQ_CLS"}))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def doors(of):
    """Functions that load a folder, those that must refuse this kind of damage."""
    def settings(folder):
        return load_profile("embedded", {"models.base": str(folder)})

    def stage(folder):
        made = load_profile("embedded", {"out": str(folder.parent)})
        made.artifacts.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, made.artifacts / "sft")
        (made.artifacts / "sft" / "stage.json").write_text("{}")
        models.load_stage(made, "sft")

    every = {
        "load_base": lambda f: models.load_base(settings(f)),
        "load_base to train": lambda f: models.load_base(settings(f), trains=True),
        "load_stage": stage,
        "load_causal": lambda f: models.load_causal(f, load_profile()),
    }
    if of == "tokenizer":
        every["load_tokenizer"] = models.load_tokenizer
    elif of != "language model only":
        every["load_scorer"] = lambda f: models.load_scorer(f, load_profile())
    if of == "model":
        every["new_reward_model"] = lambda f: models.new_reward_model(
            f, family_tokenizer("llama"), load_profile())
        every["new_comparison_model"] = lambda f: ties.new_comparison_model(
            f, family_tokenizer("llama"), load_profile())
    return every


def one_sentence(caught):
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and "; " in text
    return text


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_family("llama", tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def good_scorer(good, tmp_path_factory):
    """The same with a trained head."""
    folder = tmp_path_factory.mktemp("scorer")
    settings = load_profile()
    tokenizer = models.load_tokenizer(good)
    model = models.new_reward_model(good, tokenizer, settings).to(torch.bfloat16)
    models.save(model, tokenizer, folder)
    return folder


@pytest.mark.parametrize(("spoil", "words", "of"), REFUSALS)
def test_a_damaged_folder_is_named_at_every_door(good, good_scorer, tmp_path, spoil, words, of):
    for name, load in doors(of).items():
        folder = tmp_path / name / "brought"
        shutil.copytree(good_scorer if name == "load_scorer" else good, folder)
        spoil(folder)
        with pytest.raises(UserError, match=words) as caught:
            load(folder)
        text = one_sentence(caught)
        assert str(folder) in text or (name == "load_stage" and "/sft " in text), name


def test_good_folders_are_taken_at_every_door_and_a_head_is_not_made_up(
    good, good_scorer, tmp_path
):
    for name, load in doors("model").items():
        folder = tmp_path / name / "brought"
        shutil.copytree(good_scorer if name == "load_scorer" else good, folder)
        load(folder)
    models.load_tokenizer(good)
    with pytest.raises(UserError, match="no trained head") as caught:
        models.load_scorer(good, load_profile())
    one_sentence(caught)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_in_place_of_its_folder_is_told_with_the_folder(good, name):
    with pytest.raises(UserError, match=f"is a file; give the folder that holds it \\({good}\\)"):
        models.load_causal(good / name, load_profile())


def test_a_folder_around_the_folder_is_told_with_what_is_inside(good, tmp_path):
    shutil.copytree(good, tmp_path / "checkpoint-500")
    with pytest.raises(UserError, match="no config.json; give one of .*checkpoint-500"):
        models.load_causal(tmp_path, load_profile())


@pytest.mark.parametrize(("stage", "labels"), [("reward_model", 2), ("classifier", 1),
                                               ("classifier", 3)])
def test_a_scorer_of_another_number_of_labels_is_refused(tmp_path, stage, labels):
    tokenizer = family_tokenizer("gemma")
    settings = load_profile("embedded", {"out": str(tmp_path)})
    folder = settings.artifacts / stage
    make_scorer(tokenizer, "llama", num_labels=labels).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "stage.json").write_text("{}")
    wanted = 1 if stage == "reward_model" else 2
    with pytest.raises(UserError, match=f"gives {labels} numbers .* gives {wanted};") as caught:
        models.load_stage(settings, stage)
    one_sentence(caught)
    if stage == "classifier":
        with pytest.raises(UserError, match=f"gives {labels} numbers"):
            models.load_classifier(load_profile("embedded", {"models.classifier": str(folder)}))


def test_a_head_that_does_not_fit_its_configuration_is_refused(tmp_path):
    tokenizer = family_tokenizer("gemma")
    make_scorer(tokenizer, "llama", num_labels=2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path / "config.json", "id2label", "label2id", num_labels=1)
    with pytest.raises(UserError, match=r"score.weight is stored as \(2, 16\)"):
        models.load_scorer(tmp_path, load_profile(), labels=1)


def test_a_classifier_that_cannot_pad_is_refused(tmp_path):
    tokenizer = family_tokenizer("gpt2")
    make_scorer(tokenizer, num_labels=2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no padding token.*pad_token"):
        models.load_scorer(tmp_path, load_profile(), labels=2)


def test_code_that_a_known_architecture_brings_is_not_run(good, tmp_path):
    folder = tmp_path / "brought"
    shutil.copytree(good, folder)
    for name, key in (("config.json", "AutoModelForCausalLM"),
                      ("tokenizer_config.json", "AutoTokenizer")):
        edit(folder / name, auto_map={key: "ours.Ours"})
    (folder / "ours.py").write_text("raise SystemExit('it was run')")
    model, _ = models.load_causal(folder, load_profile())
    assert type(model).__module__.startswith("transformers.")


def test_a_padding_token_without_a_row_is_given_one(good, tmp_path):
    """What people leave when they add `[PAD]` to a tokenizer and save it: one id too many."""
    folder = tmp_path / "brought"
    shutil.copytree(good, folder)
    tokenizer = family_tokenizer("llama")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    model, own = models.load_causal(folder, load_profile())
    assert own.pad_token == "[PAD]"
    assert model.get_input_embeddings().num_embeddings == own.pad_token_id + 1


def test_adapters_of_a_reward_model_load_with_their_head_and_not_without(tmp_path):
    make_family("llama", tmp_path / "base")
    settings = load_profile("embedded", {
        "models.base": str(tmp_path / "base"), "models.lora": True,
        "models.lora_targets": ["q_proj", "v_proj"]})
    tokenizer = models.load_tokenizer(tmp_path / "base")
    made = models.new_reward_model(tmp_path / "base", tokenizer, settings)
    models.save(made, tokenizer, tmp_path / "reward")
    named = json.loads((tmp_path / "reward" / "adapter_config.json").read_text())
    assert len(set(named["modules_to_save"])) == 2  # PEFT's own list, of which one is stored
    models.load_scorer(tmp_path / "reward", settings)

    rewrite(tmp_path / "reward", lambda tensors: [
        tensors.pop(name) for name in list(tensors) if "score" in name],
        "adapter_model.safetensors")
    with pytest.raises(UserError, match="lacks the trained classifier or score"):
        models.load_scorer(tmp_path / "reward", settings)
