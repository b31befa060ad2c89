"""What the local hub serves: tiny models and real rows under the ids that the profiles name.

Architectures, file names, splits, storage and quirks are those of the hub; widths and weights are
not. The rows and the GPT-2 tokenizer come from the folder of real data.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import BertProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    GPT2Config,
    GPT2Tokenizer,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from helpers.engine import hub as hub_ids
from helpers.profiles import SOURCES, flatten, load_profile, profile_names

END = "<|endoftext|>"
HH_FOLDERS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def build(root: Path, real_data: Path, names: Sequence[str] | None = None) -> Path:
    """Write the repositories (all known ones, or those named) under `root`, for `LocalHub`."""
    for name, make in {**MODELS, **DATASETS}.items():
        if names is None or name in names:
            kind = "models" if name in MODELS else "datasets"
            folder = root / kind / name
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, real_data)
    return root


def pins() -> dict[tuple[str, str], set[str]]:
    """The revisions that the shipped profiles name, for `LocalHub.revisions`."""
    found: dict[tuple[str, str], set[str]] = {}
    for profile in profile_names():
        values = flatten(load_profile(profile).as_dict())
        named = [(key, values[key]) for key in SOURCES]
        named += [("models.candidates", one) for one in values["models.candidates"]]
        for key, value in named:
            if (source := hub_ids.parse(str(value))) and source.revision:
                kind = key.partition(".")[0].replace("data", "datasets")
                found.setdefault((kind, source.repo), set()).add(source.revision)
    return found


# --- models ---------------------------------------------------------------------------------


def gpt2_tokenizer(real_data: Path, **changes) -> GPT2Tokenizer:
    """The real GPT-2 byte-level BPE."""
    folder = real_data / "tokenizers" / "gpt2"
    return GPT2Tokenizer.from_pretrained(folder, **changes)


def causal(folder: Path, config: PreTrainedConfig, tokenizer, dtype=torch.float32,
           generation: dict | None = None, shard: str = "5GB", seed: int = 0) -> None:
    """A language model of random weights, saved as its original is."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for name, value in (generation or {}).items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)


def gpt2(folder: Path, real_data: Path) -> None:
    """No padding token; float32; 1,024 positions."""
    tokenizer = gpt2_tokenizer(real_data, model_max_length=1024)
    end = tokenizer.eos_token_id
    causal(folder, GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4,
                              bos_token_id=end, eos_token_id=end), tokenizer)


def gpt2_imdb(folder: Path, real_data: Path) -> None:
    """Pickled weights only on main; safetensors on the converter's pull request, refs/pr/1."""
    pull = folder.with_name(f"{folder.name}@refs--pr--1")
    gpt2(pull, real_data)
    shutil.copytree(pull, folder, dirs_exist_ok=True)
    pickled(folder)


def pickled(folder: Path) -> None:
    """Turn a repository's safetensors into pickled files."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def qwen(tied: bool, instruct: bool = False) -> Callable[[Path, Path], None]:
    """Padding equal to end of text, a padded embedding, bfloat16, sampling settings, a template.

    The larger one is untied and sharded. An Instruct one ends with its template's own token.
    """
    def make(folder: Path, real_data: Path) -> None:
        tokenizer = gpt2_tokenizer(
            real_data, pad_token=END, bos_token=None,
            extra_special_tokens=["<|im_start|>", "<|im_end|>"])
        tokenizer.chat_template = CHAT
        if instruct:
            tokenizer.eos_token = "<|im_end|>"
        end = tokenizer.eos_token_id
        config = Qwen2Config(
            vocab_size=-(-len(tokenizer) // 64) * 64,  # as in the original, padded
            hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32_768,
            tie_word_embeddings=tied, bos_token_id=end, eos_token_id=end, pad_token_id=None)
        causal(folder, config, tokenizer, torch.bfloat16, shard="5GB" if tied else "4MB",
               generation={"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
                           "repetition_penalty": 1.1, "pad_token_id": end})
    return make


def smollm2(folder: Path, real_data: Path) -> None:
    """A Llama of bfloat16 and tied embeddings, begin and end of text the same, no padding token."""
    tokenizer = gpt2_tokenizer(real_data)
    end = tokenizer.eos_token_id
    causal(folder, LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=end, eos_token_id=end), tokenizer, torch.bfloat16)


def smollm2_instruct(folder: Path, real_data: Path) -> None:
    """Turns begin with the token that begins a text, end with that which ends and pads it."""
    tokenizer = gpt2_tokenizer(real_data, bos_token="<|im_start|>", eos_token="<|im_end|>",
                               pad_token="<|im_end|>")
    tokenizer.chat_template = CHAT
    causal(folder, LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id),
        tokenizer, torch.bfloat16)


def gpt_neo(folder: Path, real_data: Path) -> None:
    """GPT-2's tokenizer, and attention to all tokens and to the nearest in turn."""
    tokenizer = gpt2_tokenizer(real_data, model_max_length=2048)
    end = tokenizer.eos_token_id
    causal(folder, GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], max_position_embeddings=2048,
        bos_token_id=end, eos_token_id=end), tokenizer)


def pythia(folder: Path, real_data: Path) -> None:
    """A GPT-NeoX with an output layer of its own and more rows than tokens, in float16."""
    tokenizer = gpt2_tokenizer(real_data)
    causal(folder, GPTNeoXConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=2048,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id),
        tokenizer, torch.float16)


def distilbert_imdb(folder: Path, real_data: Path) -> None:
    """A classifier with labels in words and word pieces of its own; as gpt2-imdb, but refs/pr/5."""
    reviews = pq.read_table(real_data / "imdb" / "test.parquet")["text"].to_pylist()
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(reviews[:300], vocab_size=2000, show_progress=False)
    pieces._tokenizer.post_processor = BertProcessing(*(
        (token, pieces.token_to_id(token)) for token in ("[SEP]", "[CLS]")))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, unk_token="[UNK]", sep_token="[SEP]",
        pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]", model_max_length=512)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(DistilBertConfig(
        vocab_size=len(tokenizer), dim=64, hidden_dim=128, n_layers=2, n_heads=4,
        id2label={0: "NEGATIVE", 1: "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1}))
    pull = folder.with_name(f"{folder.name}@refs--pr--5")
    for part in (model, tokenizer):
        part.save_pretrained(pull)
    shutil.copytree(pull, folder, dirs_exist_ok=True)
    pickled(folder)


# --- datasets -------------------------------------------------------------------------------


def parquet(folder: Path, config: str, files: dict[str, list[dict]]) -> None:
    """Rows by split in one file each, with the card that says which file is which split."""
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    place = folder / ("data" if config == "default" else config)
    place.mkdir(exist_ok=True)
    for split, rows in files.items():
        pq.write_table(pa.Table.from_pylist(rows), place / f"{split}-00000-of-00001.parquet")
        lines += [f"  - split: {split}", f"    path: {place.name}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def rows_of(path: Path) -> list[dict]:
    """Rows of a real .parquet or .jsonl.gz file."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def imdb(folder: Path, real_data: Path) -> None:
    """Sorted by label, and a third split whose label is -1."""
    train, test = (sorted(rows_of(real_data / "imdb" / f"{split}.parquet"),
                          key=lambda row: row["label"]) for split in ("train", "test"))
    loose = [{"text": row["text"] + " (not judged)", "label": -1} for row in train[::2]]
    parquet(folder, "plain_text", {"train": train, "test": test, "unsupervised": loose})


def hh(folder: Path, real_data: Path) -> None:
    """Four folders of pairs and one of something else; about 1.8 % of the rows are irregular."""
    for split in ("train", "test"):
        rows = rows_of(real_data / "hh-rlhf" / "harmless-base" / f"{split}.jsonl.gz")
        for i in range(0, len(rows), 80):
            rows[i]["rejected"] = rows[i]["chosen"]
        for i in range(1, len(rows), 200):
            rows[i]["rejected"] = rows[i]["rejected"].replace("Human: ", "Human: Well, ", 1)
        for number, name in enumerate(HH_FOLDERS):
            write_lines(folder / name / f"{split}.jsonl.gz", rows[number::len(HH_FOLDERS)])
    write_lines(folder / "red-team-attempts" / "red_team_attempts.jsonl.gz",
                [{"transcript": "\n\nHuman: A test.", "rating": 1.0}])


def write_lines(path: Path, rows: list[dict]) -> None:
    """Rows as JSON lines, gzipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def tulu(folder: Path, real_data: Path) -> None:
    """Splits named after their sources, none called train."""
    rows = rows_of(real_data / "tulu" / "anthropic_hh.parquet")
    parquet(folder, "default", {name: rows if name == "anthropic_hh" else rows[:20] for name in (
        "anthropic_hh", "nectar", "shp_2", "stack_exchange_paired", "ultrafeedback_mean_aspects")})


def ultrafeedback(folder: Path, real_data: Path) -> None:
    """Three uses with a train and a test split each."""
    train, test = (rows_of(real_data / "ultrafeedback" / f"{split}.parquet")
                   for split in ("train", "test"))
    parquet(folder, "default", {
        f"{split}_{use}": rows if use == "prefs" else rows[:20]
        for use in ("prefs", "sft", "gen") for split, rows in (("train", train), ("test", test))})


def arena(folder: Path, real_data: Path) -> None:
    """One file of judgements, with ties."""
    shutil.copy(real_data / "arena" / "train.csv", folder / "train.csv")


MODELS: dict[str, Callable[[Path, Path], None]] = {
    "openai-community/gpt2": gpt2,
    "distilbert/distilgpt2": gpt2,
    "openai-community/gpt2-medium": gpt2,
    "EleutherAI/gpt-neo-125m": gpt_neo,
    "EleutherAI/pythia-160m": pythia,
    "lvwerra/gpt2-imdb": gpt2_imdb,
    "lvwerra/distilbert-imdb": distilbert_imdb,
    "Qwen/Qwen2.5-0.5B": qwen(tied=True),
    "Qwen/Qwen2.5-1.5B": qwen(tied=True),
    "Qwen/Qwen2.5-7B": qwen(tied=False),
    "Qwen/Qwen2.5-1.5B-Instruct": qwen(tied=True, instruct=True),
    "Qwen/Qwen2.5-7B-Instruct": qwen(tied=False, instruct=True),
    "HuggingFaceTB/SmolLM2-135M": smollm2,
    "HuggingFaceTB/SmolLM2-360M-Instruct": smollm2_instruct,
}
DATASETS: dict[str, Callable[[Path, Path], None]] = {
    "stanfordnlp/imdb": imdb,
    "Anthropic/hh-rlhf": hh,
    "allenai/preference-datasets-tulu": tulu,
    "HuggingFaceH4/ultrafeedback_binarized": ultrafeedback,
    "lmarena-ai/arena-human-preference-55k": arena,
}


# --- where there are no real rows -------------------------------------------------------------


def stand_in(folder: Path) -> Path:
    """Rows of the embedded world in the files of the folder of real data, and a byte-level BPE."""
    from helpers import data, scratch
    from helpers.engine.rows import parse_hh

    settings = load_profile("embedded")
    for split in ("train", "test"):
        reviews = data.load_reviews(settings, split, 400)
        pairs = data.load_pairs(settings, split, 400)
        asked = [{"prompt": data.plain_prompt(row["prompt"]), **{
            side: parse_hh(row["prompt"])[0] + [{"role": "assistant", "content": row[side]}]
            for side in ("chosen", "rejected")}} for row in pairs]
        written = {f"imdb/{split}.parquet": [dict(text=r["text"], label=r["label"])
                                             for r in reviews],
                   f"ultrafeedback/{split}.parquet": asked, "tulu/anthropic_hh.parquet": asked}
        for name, rows in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / name)
        write_lines(folder / "hh-rlhf" / "harmless-base" / f"{split}.jsonl.gz", [
            {side: data.render_example(row["prompt"], row[side])
             for side in ("chosen", "rejected")} for row in pairs])
    tokenizer = scratch.train_tokenizer([r["text"] for r in data.load_reviews(settings, "train")],
                                        2000)
    inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    place = folder / "tokenizers" / "gpt2"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps(inner["vocab"]), encoding="utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in inner["merges"]]
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n",
                                      encoding="utf-8")
    (folder / "arena").mkdir(parents=True)
    (folder / "arena" / "train.csv").write_text(
        "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n")
    return folder
