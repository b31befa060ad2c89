"""Files and rows as people bring them, by kind: odd ones that are good, and bad ones.

`FILES` are manners of writing any table; each is tried with the rows of every kind. `ROWS` are
single rows of a kind; each stands second in a file of three. What is good has the value that it
must be read as (None where it is left out and counted), what is bad the words that the one
sentence about it must have.
"""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas

ASKED = "Why is the sky blue?"
PROMPT = f"\n\nHuman: {ASKED}\n\nAssistant:"
YES, NO = "Air scatters blue light.", "It is."
HALF = json.loads('"half \\ud83d"')  # a lone surrogate
DEEP = json.loads("[" * 400 + "]" * 400)


class Kind(NamedTuple):
    """Three good rows that any table can hold, and what the course reads them as."""

    rows: list[dict[str, str]]
    read: list[dict[str, Any]]


PAIR = {"probability": None, "score_gap": None, "topic": "", "source": ""}
ODD = "Früher, „gut“; \"so\" | und – so"
KINDS = {
    "reviews": Kind(
        [{"text": f"{i}: {ODD}", "label": str(i % 2)} for i in range(3)],
        [{"text": f"{i}: {ODD}", "label": i % 2} for i in range(3)]),
    "preferences": Kind(
        [{"prompt": f"{i}. {ASKED}", "chosen": ODD, "rejected": f"Two\nlines, {i}"}
         for i in range(3)],
        [{"prompt": f"\n\nHuman: {i}. {ASKED}\n\nAssistant:", "chosen": ODD,
          "rejected": f"Two\nlines, {i}"} | PAIR for i in range(3)]),
    "demonstrations": Kind(
        [{"prompt": f"{i}. {ASKED}", "completion": f"{ODD}\nand {i}"} for i in range(3)],
        [{"prompt": f"\n\nHuman: {i}. {ASKED}\n\nAssistant:", "response": f"{ODD}\nand {i}",
          "topic": ""} for i in range(3)]),
    "ratings": Kind(
        [{"annotator": "Zoë", "source": "human", "task": "t", "prompt": ASKED,
          "response": f"{ODD}, {i}", "model": "m", "rating.fluency": str(i + 1)}
         for i in range(3)],
        [{"annotator": "Zoë", "source": "human", "task": "t", "prompt": ASKED,
          "response": f"{ODD}, {i}", "model": "m", "ratings": {"fluency": i + 1}}
         for i in range(3)]),
}


# ------------------------------------------------------------------------------------ files


class File(NamedTuple):
    """A manner of writing rows: a file's ending, its bytes; words of the sentence, None if good.

    `row`: whether the sentence must name a row.
    """

    name: str
    ending: str
    write: Callable[[list[dict]], bytes]
    words: str | None = None
    row: int | None = None


def table(rows, sep=",", **how):
    return pandas.DataFrame(rows).to_csv(index=False, sep=sep, **how)


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parquet(rows, **types):
    buffer = io.BytesIO()
    pandas.DataFrame(rows, **types).to_parquet(buffer)
    return buffer.getvalue()


def zipped(rows):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rows.csv", table(rows))
    return buffer.getvalue()


def swapped(rows):
    return [dict(reversed(row.items())) for row in rows]


def whole(text):
    """A file of these words, whatever the rows."""
    return lambda rows: text if isinstance(text, bytes) else text.encode()


def cut(write, share=0.6):
    def cut_off(rows):
        content = write(rows)
        return content[: int(len(content) * share)]
    return cut_off


def second(rows, text):
    """JSON lines with other words in the place of the second row."""
    first, _, third = lines(rows).splitlines()
    return f"{first}\n{text}\n{third}\n".encode(errors="surrogatepass")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>Log in, please</title></head></html>\n"
MANY = "9" * 5000

FILES = [
    # CSV that is good
    File("plain", ".csv", lambda r: table(r).encode()),
    File("capitals", ".CSV", lambda r: table(r).encode()),
    File("byte order mark", ".csv", lambda r: table(r).encode("utf-8-sig")),
    File("Windows' line ends", ".csv", lambda r: table(r, lineterminator="\r\n").encode()),
    File("all quoted", ".csv", lambda r: table(r, quoting=1).encode()),
    File("semicolons", ".csv", lambda r: table(r, ";").encode()),
    File("tabs", ".csv", lambda r: table(r, "\t").encode()),
    File("bars", ".csv", lambda r: table(r, "|").encode()),
    File("sep=;", ".csv", lambda r: b"sep=;\n" + table(r, ";").encode()),
    File("sep=;, mark", ".csv", lambda r: ("sep=;\n" + table(r, ";")).encode("utf-8-sig")),
    File("Windows-1252", ".csv", lambda r: table(r).encode("cp1252")),
    File("UTF-16", ".csv", lambda r: table(r).encode("utf-16")),
    File("UTF-16 without a mark", ".csv", lambda r: table(r).encode("utf-16-le")),
    File("UTF-16, big end", ".csv", lambda r: table(r).encode("utf-16-be")),
    File("UTF-32", ".csv", lambda r: table(r, "\t").encode("utf-32")),
    File("blank lines", ".csv", lambda r: ("\n\n" + table(r) + "\n,\n\n").encode()),
    File("columns swapped", ".csv", lambda r: table(swapped(r)).encode()),
    File("an index", ".csv", lambda r: pandas.DataFrame(r).to_csv().encode()),
    File("spaces in the header", ".csv",
         lambda r: table([{f" {k} ": v for k, v in x.items()} for x in r]).encode()),
    File("a spreadsheet's capitals", ".csv", lambda r: table(
        [{name.title().replace("_", " "): v for name, v in row.items()} for row in r]).encode()),
    File("empty columns at the end", ".csv",
         lambda r: table([x | {"": "", " ": ""} for x in r]).encode()),
    File("commas behind each row", ".csv", lambda r: (
        ",".join(r[0]) + "\n" + table([x | {"": "", " ": ""} for x in r], header=False)).encode()),
    File("no line end at the end", ".csv", lambda r: table(r).rstrip("\n").encode()),
    File("tabs by name", ".tsv", lambda r: table(r, "\t").encode()),
    File("packed", ".csv.gz", lambda r: gzip.compress(table(r).encode())),
    File("packed twice", ".csv.gz", lambda r: gzip.compress(gzip.compress(table(r).encode()))),
    File("bzip2", ".csv.bz2", lambda r: bz2.compress(table(r).encode("utf-16"))),
    File("xz", ".tsv.xz", lambda r: lzma.compress(table(r, "\t").encode())),
    File("packed in two members", ".csv.gz", lambda r: gzip.compress(
        table(r).encode()[:20]) + gzip.compress(table(r).encode()[20:])),
    File("packed, not named so", ".csv", lambda r: gzip.compress(table(r).encode())),
    File("named packed, not so", ".CSV.GZ", lambda r: table(r).encode()),
    # JSON and Parquet that are good
    File("lines", ".jsonl", lambda r: lines(r).encode()),
    File("lines as .json", ".json", lambda r: lines(r).encode()),
    File("lines in ASCII", ".ndjson",
         lambda r: "".join(json.dumps(x) + "\r\n\r\n" for x in r).encode()),
    File("lines with a mark", ".jsonl", lambda r: lines(r).encode("utf-8-sig")),
    File("lines in UTF-16", ".jsonl", lambda r: lines(r).encode("utf-16")),
    File("lines with spaces", ".JSONL", lambda r: b"\n  \n" + b"".join(
        b"  " + json.dumps(x).encode() + b" \t\n" for x in r)),
    File("a list", ".json", lambda r: json.dumps(r).encode()),
    File("a list, indented", ".jsonl", lambda r: json.dumps(r, indent=4).encode()),
    File("a list in cp1252", ".json", lambda r: json.dumps(r, ensure_ascii=False).encode("cp1252")),
    File("inside an object", ".json", lambda r: json.dumps({"n": 3, "data": r}).encode()),
    File("columns", ".json", lambda r: json.dumps(
        {key: [x[key] for x in r] for key in r[0]}).encode()),
    File("pandas' columns", ".json", lambda r: pandas.DataFrame(r).to_json().encode()),
    File("pandas' records", ".json", lambda r: pandas.DataFrame(r).to_json(
        orient="records", indent=2).encode()),
    File("the hub's viewer", ".json", lambda r: json.dumps({"features": [], "rows": [
        {"row_idx": i, "row": x, "truncated_cells": []} for i, x in enumerate(r)]}).encode()),
    File("lines of one object each, indented", ".json", lambda r: "".join(
        json.dumps(x, indent=1) + "\n" for x in r).encode(), "valid JSON"),
    File("plain parquet", ".parquet", parquet),
    File("categories", ".parquet", lambda r: parquet(r, dtype="category")),
    File("bytes", ".PARQUET", lambda r: parquet(
        [{k: v.encode() for k, v in x.items()} for x in r])),
    File("parquet named CSV", ".csv", parquet),
    File("parquet, packed", ".parquet.gz", lambda r: gzip.compress(parquet(r))),
    # nothing there
    *(File(f"no bytes {e}", e, whole(b""), "is empty|holds no|damaged") for e in (
        ".csv", ".tsv", ".json", ".jsonl", ".ndjson.gz", ".parquet", ".csv.gz", ".csv.xz")),
    File("a header only", ".csv", lambda r: (",".join(r[0]) + "\n").encode(), "is empty"),
    File("blanks only", ".jsonl", whole(" \n\n\t\n"), "is empty"),
    File("an empty list", ".json", whole("[]"), "is empty"),
    File("a mark only", ".csv", whole(b"\xef\xbb\xbf"), "is empty"),
    File("a table without rows", ".parquet", lambda r: parquet(r[:0]), "is empty"),
    File("an empty object", ".json", whole("{}"), "columns|no rating|is empty"),
    # something else
    *(File(f"a pointer of Git LFS {e}", e, whole(POINTER), "pointer of Git LFS")
      for e in (".csv", ".jsonl", ".parquet", ".csv.gz")),
    *(File(f"a web page {e}", e, whole(PAGE), "web page")
      for e in (".csv", ".json", ".jsonl", ".parquet")),
    File("a zip file", ".csv", zipped, "zip"),
    File("a zip file", ".json", zipped, "zip"),
    File("a zip file", ".parquet", zipped, "zip|cannot be read"),
    File("a spreadsheet", ".xlsx", zipped, "unknown ending.*CSV"),
    File("zeros", ".csv", whole(bytes(4000)), "not text|damaged|zip"),
    File("zeros", ".jsonl", whole(bytes(4000)), "not text|damaged|not valid"),
    File("noise", ".csv", whole(bytes(range(256)) * 9), "save it"),
    File("noise", ".json", whole(bytes(range(255, 0, -1)) * 9), "save it"),
    File("noise", ".parquet", whole(bytes(range(256)) * 9), "damaged"),
    File("Parquet's letters only", ".parquet", whole(b"PAR1PAR1"), "damaged"),
    File("prose", ".csv", whole("Dear all,\nplease find the ratings attached.\n"),
         "row 1, has 1 field|columns"),
    File("prose", ".json", whole("Dear all,\nplease find the data.\n"), "row 1 is not valid JSON"),
    File("Python's list", ".json", lambda r: str(r).encode(), "not valid JSON"),
    File("Python's rows", ".jsonl", lambda r: "\n".join(map(str, r)).encode(), "not valid JSON", 1),
    # cut off and damaged
    File("gzip cut", ".csv.gz", cut(lambda r: gzip.compress(table(r).encode())), "unpacked"),
    File("bzip2 cut", ".csv.bz2", cut(lambda r: bz2.compress(table(r).encode())), "unpacked"),
    File("xz cut", ".csv.xz", cut(lambda r: lzma.compress(table(r).encode())), "unpacked"),
    File("gzip's letters only", ".jsonl.gz", whole(b"\x1f\x8b"), "unpacked"),
    File("gzip with a changed byte", ".jsonl.gz", lambda r: (
        lambda c: c[:40] + bytes([c[40] ^ 255]) + c[41:])(gzip.compress(lines(r).encode())),
        "unpacked"),
    File("gzip and something behind", ".csv.gz",
         lambda r: gzip.compress(table(r).encode()) + b"\x01\x02rest", "unpacked"),
    File("parquet cut", ".parquet", cut(parquet), "damaged"),
    File("lines cut", ".jsonl", lambda r: lines(r).encode()[:-9], "not valid JSON", 3),
    File("lines cut in a character", ".jsonl", lambda r: lines(r).encode().rsplit(b"\x80\x93")[0],
         "ends inside a character, in line 1; it was cut short"),
    File("a list cut", ".json", cut(lambda r: json.dumps(r).encode()), "not valid JSON"),
    File("UTF-16 cut", ".csv", lambda r: table(r).encode("utf-16")[:-1], "UTF-16"),
    File("UTF-16 cut, no mark", ".csv", lambda r: table(r).encode("utf-16-le")[:-1], "UTF-16"),
    File("one byte of Windows", ".csv", lambda r: table(r).encode().replace(
        "ü".encode(), b"\xfc", 1), "UTF-8 except for the byte 0xfc in line 2"),
    File("a character cut", ".jsonl", lambda r: lines(r).encode().replace(
        "ü".encode(), b"\xc3", 1), "in line 1"),
    # tables that do not hold together
    File("a row too short", ".csv", lambda r: (table(r) + "x\n").encode(), "has 1 field", 4),
    File("a row too long", ".csv", lambda r: (table(r) + "x,x" * 9 + "\n").encode(), "fields", 4),
    File("a quote left open", ".csv", lambda r: (table(r) + '"x' + ",x" * (len(r[0]) - 1)
                                                 ).encode(), "CSV", 4),
    File("text behind a quote", ".csv", lambda r: (table(r) + '"x"y' + ",x" * (len(r[0]) - 1)
                                                   ).encode(), "CSV", 4),
    File("a column twice", ".csv", lambda r: (
        ",".join([*list(r[0])[:-1], next(iter(r[0]))]) + "\n" + table(r, header=False)).encode(),
        "two columns called"),
    File("no header", ".csv", lambda r: table(r, header=False).encode(), "columns|annotator"),
    File("a number", ".json", whole("7"), "row 1 is not an object"),
    File("null", ".jsonl", whole("null\n"), "row 1 is not an object"),
    File("a text", ".json", whole('"text"'), "row 1 is not an object"),
    File("a list of numbers", ".json", whole("[1, 2, 3]"), "row 1 is not an object"),
    File("a list of lists", ".json", whole('[["a", "b"]]'), "row 1 is not an object"),
    File("a null among rows", ".json", lambda r: json.dumps([r[0], None]).encode(),
         "not an object", 2),
    File("a null among lines", ".jsonl", lambda r: second(r, "null"), "not an object", 2),
    File("a comment among lines", ".jsonl", lambda r: second(r, "// rest"), "not valid JSON", 2),
    File("a comma behind a line", ".jsonl", lambda r: second(r, "{},"), "not valid JSON", 2),
    File("two on a line", ".jsonl", lambda r: second(r, "{} {}"), "not valid JSON", 2),
    File("a comma at the end", ".json", lambda r: json.dumps(r).replace("]", ",]").encode(),
         "not valid JSON"),
    File("a very long number", ".jsonl", lambda r: second(r, f'{{"a": {MANY}}}'), "number", 2),
    File("a very long number, listed", ".json", whole(f'[{{"a": {MANY}}}]'), "number|digits"),
    File("a nest of lists", ".json", whole("[" * 100_000), "nested too deeply"),
    File("a nest of objects", ".jsonl", whole('{"a":' * 100_000), "nested too deeply"),
    File("a nest in a row", ".jsonl", lambda r: second(r, "[" * 100_000), "nested too deeply", 2),
    File("no name", "", lambda r: table(r).encode(), "unknown ending"),
    File("another ending", ".docx", lambda r: table(r).encode(), "unknown ending"),
    File("an archive", ".tar.gz", lambda r: gzip.compress(table(r).encode()), "unknown ending"),
]


# ------------------------------------------------------------------------------------- rows


class Bad(NamedTuple):
    """Words that the sentence about a row must have."""

    words: str


EMPTY = [("nothing", None), ("no text", ""), ("spaces", "  \n"), ("not a number", float("nan"))]
OTHER = [("a number", 7), ("a truth", True), ("a list", ["x"]), ("an object", {"a": 1}),
         ("half a character", HALF), ("a nest", DEEP), ("an empty list", [])]


def each(form, column, good, values, words):
    """A row for each value of a column that cannot be meant."""
    return {f"{form}, {column}: {name}": (good | {column: value}, Bad(words))
            for name, value in values}


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def pair(chosen=YES, rejected=NO, prompt=PROMPT, **more):
    return PAIR | {"prompt": prompt, "chosen": chosen, "rejected": rejected} | more


TEXT = {"text": "A film.", "label": 1}
TRL = {"prompt": ASKED, "chosen": YES, "rejected": NO}
CHOICE = {"prompt": ASKED, "response_a": YES, "response_b": NO, "winner": "a"}
ARENA = {"prompt": json.dumps([ASKED]), "response_a": json.dumps([YES]),
         "response_b": json.dumps([NO]), "winner_model_a": 1, "winner_model_b": 0,
         "winner_tie": 0}
TALKS = {"conversation_a": [user(ASKED), answer(YES)], "conversation_b": [user(ASKED), answer(NO)],
         "winner": "model_a"}
OPENAI = {"input": {"messages": [user(ASKED)]}, "preferred_output": [answer(YES)],
          "non_preferred_output": [answer(NO)]}
ULTRA = {"instruction": ASKED, "completions": [{"response": YES, "overall_score": 8},
                                               {"response": NO, "overall_score": 2}]}
TALK = {"messages": [user(ASKED), answer(YES)]}
SHOWN = {"prompt": PROMPT, "response": YES, "topic": ""}
RATED = KINDS["ratings"].rows[0]
CHOSEN = {"annotator": "Zoë", "source": "human", "task": "t", "prompt": ASKED, "response_a": YES,
          "response_b": NO, "model_a": "", "model_b": "", "preference": "a"}


def hh(*turns):
    return "".join(f"\n\n{who}: {text}" for who, text in zip(
        ("Human", "Assistant") * len(turns), turns, strict=False))


ROWS: dict[str, dict[str, tuple[dict, Any]]] = {
    "reviews": {
        "HTML": ({"text": "A&nbsp;<br />film &amp; more", "label": "pos"},
                 {"text": "A film & more", "label": 1}),
        "a label as 0.0": ({"text": "A film.", "label": "0.0"}, {"text": "A film.", "label": 0}),
        "a line separator": ({"text": "One\u2028two\x85three", "label": 0},
                             {"text": "One two three", "label": 0}),
        "a zero": ({"text": "a\0b", "label": 1}, {"text": "a\0b", "label": 1}),
        "very long": ({"text": "word " * 50_000 + "end", "label": True},
                      {"text": "word " * 50_000 + "end", "label": 1}),
        **each("IMDB", "text", TEXT, EMPTY, "'text' is empty"),
        **each("IMDB", "text", TEXT, OTHER, "'text' (is|holds half)"),
        **each("IMDB", "label", TEXT, EMPTY, "the label is"),
        **each("IMDB", "label", TEXT, [o for o in OTHER if o[0] != "a truth"], "the label is"),
        **each("IMDB", "label", TEXT, [("two", 2), ("-1", -1), ("a half", 0.5), ("infinite", 1e999),
                               ("a star", "5 stars"), ("huge", 10**400), ("Arabic one", "\u0661")],
               "the label is"),
        "only breaks": ({"text": "<br/><br />", "label": 1}, Bad("'text' is empty but for HTML")),
        "no text at all": ({"label": 1}, Bad("text")),
        "no label at all": ({"text": "A film."}, Bad("label")),
    },
    "preferences": {
        "with scores": (TRL | {"score_chosen": "9", "score_rejected": 7.5}, pair(score_gap=1.5)),
        "with parts": ({"chosen": [user([{"type": "text", "text": ASKED}]), answer(YES)],
                        "rejected": [user(ASKED), answer([{"type": "text", "text": NO}])]},
                       pair()),
        "special tokens": (TRL | {"chosen": "fine <|endoftext|> more"},
                           pair("fine <|endoftext|> more")),
        "a zero": (TRL | {"chosen": "a\0b"}, pair("a\0b")),
        "HH, its lines Windows'": ({"chosen": hh(ASKED, YES).replace("\n", "\r\n"),
                                    "rejected": hh(ASKED, NO)}, pair()),
        "ShareGPT": ({"conversations": [human(ASKED)], "chosen": gpt(YES), "rejected": gpt(NO)},
                     pair()),
        "arena": (ARENA, pair()),
        "arena, a null turn": (ARENA | {"response_b": json.dumps([None])}, Bad("is empty")),
        "choice": (CHOICE | {"winner": " MODEL_B "}, pair(NO, YES)),
        "UltraFeedback": (ULTRA, pair(score_gap=6.0)),
        **{f"prompt: {n}": (TRL | {"prompt": v}, Bad("prompt|Human:")) for n, v in EMPTY + OTHER},
        **each("TRL", "chosen", TRL, EMPTY, "'chosen' is (empty|None|nan)"),
        **each("TRL", "rejected", TRL, OTHER, "'rejected'"),
        **each("TRL", "probability", TRL,
               [("a number above 1", 7), ("text", "high"), ("a list", [1]),
                                    ("a truth", True), ("infinite", 1e999), ("huge", 10**400),
                                    ("below 0", -0.1), ("half a character", HALF)],
               "the probability is"),
        **{f"score: {n}": (TRL | {"score_chosen": v, "score_rejected": 1}, Bad("score_chosen is"))
           for n, v in (("text", "good"), ("a list", [1]), ("infinite", 1e999),
                        ("huge", 10**400), ("an object", {"a": 1}))},
        **each("TRL", "topic", TRL,
               [("a list", ["a"]), ("an object", {}), ("half a character", HALF)],
               "'topic'"),
        "both the same": (TRL | {"rejected": f" {YES} "}, Bad("equal")),
        "different prompts": ({"chosen": hh(ASKED, YES), "rejected": hh("Who?", NO)},
                              Bad("different prompts")),
        "HH ends with the human": ({"chosen": hh(ASKED, YES, "And?"), "rejected": hh(ASKED, NO)},
                                   Bad("ends with a human turn")),
        "HH without an answer": ({"chosen": hh(ASKED), "rejected": hh(ASKED)},
                                 Bad("no 'Assistant:' turn")),
        "HH twice the human": ({"chosen": f"\n\nHuman: Hi{hh(ASKED, YES)}",
                                "rejected": f"\n\nHuman: Hi{hh(ASKED, NO)}"}, Bad("alternate")),
        "nothing in common": ({"chosen": YES, "rejected": NO}, Bad("Human:")),
        "a null in a turn": ({"chosen": [user(None), answer(YES)],
                              "rejected": [user(ASKED), answer(NO)]}, Bad("content is null")),
        "a null answer": ({"chosen": [user(ASKED), answer(None)],
                           "rejected": [user(ASKED), answer(NO)]}, Bad("content is null")),
        "a picture": ({"chosen": [user([{"type": "image_url", "image_url": {"url": "x"}}]),
                                  answer(YES)], "rejected": [user(ASKED), answer(NO)]},
                      Bad("no text.*image_url")),
        "a number in a turn": ({"chosen": [user(3), answer(YES)],
                                "rejected": [user(ASKED), answer(NO)]}, Bad("content is 3")),
        "a role of nobody": ({"chosen": [{"role": "narrator", "content": "x"}, answer(YES)],
                              "rejected": [user(ASKED), answer(NO)]}, Bad("'narrator'")),
        "a role that is null": ({"chosen": [{"role": None, "content": "x"}, answer(YES)],
                                 "rejected": [user(ASKED), answer(NO)]}, Bad("role")),
        "turns without a role": ({"chosen": [{"content": "x"}], "rejected": [{"content": "y"}]},
                                 Bad("messages of content")),
        "a turn that is text": ({"chosen": [user(ASKED), YES], "rejected": [user(ASKED), NO]},
                                Bad("'chosen' is")),
        "an empty turn list": ({"chosen": [], "rejected": [user(ASKED), answer(NO)]},
                               Bad("'chosen' is")),
        "half a character in a turn": ({"chosen": [user(HALF), answer(YES)],
                                        "rejected": [user(HALF), answer(NO)]},
                                       Bad("half a character")),
        "ends with the call of a tool": (
            {"chosen": [user(ASKED), answer(None) | {"tool_calls": [{"id": 1}]}],
             "rejected": [user(ASKED), answer(NO)]}, Bad("call of a tool")),
        "JSON of turns that is cut": (
            {"chosen": json.dumps([user(ASKED), answer(YES)])[:40],
             "rejected": json.dumps([user(ASKED), answer(NO)])}, Bad("not valid JSON")),
        "ShareGPT without a chosen": ({"conversations": [human(ASKED)], "chosen": None,
                                       "rejected": gpt(NO)}, Bad("'chosen' is None")),
        "ShareGPT that is text": ({"conversations": 5, "chosen": gpt(YES), "rejected": gpt(NO)},
                                  Bad("'(prompt|conversations)' is 5")),
        **each("choice", "winner", CHOICE, EMPTY + OTHER + [("nobody", "c")], "the winner is"),
        **each("choice", "response_a", CHOICE, EMPTY + OTHER, "response_a"),
        **each("arena", "winner_model_a", ARENA, [("two", 2), ("text", "yes"), ("a list", [1]),
                                         ("none won", 0), ("nothing", None)], "exactly one"),
        **each("arena", "response_a", ARENA,
               [("a number", 7), ("an object", {"a": 1}), ("numbers", [1]),
                                     ("a nest", DEEP), ("no turns", [])], "response_a"),
        **each("arena", "prompt", ARENA, [("more turns", ["a", "b"]), ("nothing", None)],
               "prompt"),
        **each("talks", "conversation_a", TALKS, EMPTY + OTHER, "conversation_a"),
        "conversations of two prompts": (TALKS | {"conversation_a": [user("x"), answer(YES)]},
                                         Bad("different prompts")),
        **each("UltraFeedback", "completions", ULTRA,
               [("nothing", None), ("a number", 7), ("text", "x"),
                                      ("an object", {"a": 1}), ("numbers", [1, 2]),
                                      ("one only", ULTRA["completions"][:1])], "completions"),
        "completions without text": (
            ULTRA | {"completions": [{"overall_score": 1}, {"overall_score": 2}]},
            Bad("'response' is empty")),
        **each("UltraFeedback", "instruction", ULTRA, EMPTY + OTHER, "instruction"),
        "columns of other forms beside": (
            TRL | {"chosen_response": "x", "preferred_output": "y", "completions": None}, pair()),
        "OpenAI, preferences": (OPENAI, pair()),
        **each("OpenAI", "input", OPENAI,
               [*EMPTY, *OTHER, ("messages at once", [user(ASKED)]),
                ("no messages", {"model": "x"}), ("empty messages", {"messages": []})],
               "'input' is"),
        **each("OpenAI", "preferred_output", OPENAI, EMPTY + OTHER, "'preferred_output'"),
    },
    "demonstrations": {
        "messages": (TALK, SHOWN),
        "Alpaca, a null input": ({"instruction": ASKED, "input": None, "output": YES}, SHOWN),
        "Alpaca, a NaN input": ({"instruction": ASKED, "input": float("nan"), "output": YES},
                                SHOWN),
        "HH": ({"text": hh(ASKED, YES)}, SHOWN),
        "a topic that is a number": ({"prompt": ASKED, "response": YES, "topic": 3},
                                     SHOWN | {"topic": "3"}),
        "KTO, liked": ({"prompt": ASKED, "completion": YES, "label": True}, SHOWN),
        "KTO, disliked": ({"prompt": ASKED, "completion": NO, "label": False}, None),
        "KTO, disliked, as text": ({"prompt": [user(ASKED)], "completion": [answer(NO)],
                                    "label": "False"}, None),
        "KTO, disliked, as a number": ({"prompt": ASKED, "completion": NO, "label": 0.0}, None),
        "KTO, a class": ({"prompt": ASKED, "completion": NO, "label": "qa"}, Bad("label is 'qa'")),
        "messages, disliked": (TALK | {"label": False}, None),
        "messages, a class": (TALK | {"label": "qa"}, SHOWN),
        "KTO, no word": ({"prompt": ASKED, "completion": NO, "label": None}, Bad("label")),
        **each("TRL", "completion", {"prompt": ASKED, "completion": YES},
               EMPTY + OTHER, "'completion'"),
        **each("plain", "response", {"prompt": ASKED, "response": YES},
               EMPTY + OTHER, "'response'"),
        **each("plain", "prompt", {"prompt": ASKED, "response": YES}, EMPTY + OTHER, "'prompt'"),
        **each("TRL", "prompt", {"prompt": ASKED, "completion": YES}, OTHER, "'prompt'"),
        **each("messages", "messages", TALK, EMPTY + OTHER, "'messages'"),
        **each("Alpaca", "output", {"instruction": ASKED, "output": YES},
               EMPTY + OTHER, "'output'"),
        **each("Alpaca", "input", {"instruction": ASKED, "input": "", "output": YES},
               OTHER, "'input'"),
        **each("Alpaca", "instruction", {"instruction": ASKED, "output": YES}, EMPTY + OTHER,
               "'instruction'"),
        **each("HH", "text", {"text": hh(ASKED, YES)}, EMPTY + OTHER, "'text'|the text"),
        "a review": ({"text": "A film."}, Bad("does not start with 'Human:'")),
        "ends with the user": ({"messages": [user(ASKED)]}, Bad("does not end with the assistant")),
        "ends with a tool": ({"messages": [user(ASKED), {"role": "tool", "content": "x"}]},
                             Bad("does not end with the assistant")),
        "only the answer": ({"messages": [answer(YES)]}, Bad("no turn of the user")),
        "only the system": ({"messages": [{"role": "system", "content": "x"}]},
                            Bad("does not end with the assistant")),
        "an empty answer": ({"messages": [user(ASKED), answer("")]}, Bad("response is empty")),
        "an empty question": ({"messages": [user(" "), answer(YES)]}, Bad("the prompt is empty")),
        "gpt first": ({"conversations": [gpt("Hi."), human(ASKED), gpt(YES)]}, Bad("alternate")),
        "a prompt that ends with the assistant": (
            {"prompt": [user(ASKED), answer("x")], "response": YES}, Bad("alternate")),
    },
    "ratings": {
        "4.0": (RATED | {"rating.fluency": 4.0}, {"fluency": 4}),
        "' 4.00 '": (RATED | {"rating.fluency": " 4.00 "}, {"fluency": 4}),
        "a blank one beside": (RATED | {"rating.fluency": 5, "rating.wit": " "}, {"fluency": 5}),
        "a choice": (CHOSEN | {"preference": " TIE "}, "tie"),
        "a blank id": (RATED | {"id": " "}, {"fluency": 1}),
        **each("rating", "rating.fluency", RATED, [
            ("none", 0), ("six", 6), ("a half", 4.5), ("a truth", True), ("text", "four"),
            ("infinite", 1e999), ("huge", 10**400), ("a list", [4]), ("an object", {"a": 4}),
            ("4,0", "4,0"), ("Arabic four", "\u0664"), ("half a character", HALF),
            ("a nest", DEEP)], "fluency"),
        **each("rating", "rating.fluency", RATED,
               [("nothing", None), ("spaces", " ")], "rates nothing"),
        **each("choice", "preference", CHOSEN, [*OTHER, ("c", "c"), ("a number", 1)], "preference"),
        **each("choice", "preference", CHOSEN, EMPTY[:1], "preference"),
        **each("rating", "annotator", RATED, EMPTY + OTHER, "annotator"),
        **each("rating", "source", RATED,
               [("nothing", None), ("a robot", "robot"), ("a list", ["human"])],
               "source"),
        **each("rating", "task", RATED, [("spaces", " "), ("a number", 3)], "task"),
        **each("rating", "id", RATED,
               [("a number", 3), ("a list", ["x"]), ("half a character", HALF)],
               "'id'"),
        **each("rating", "time", RATED, [("a number", 3), ("a list", [])], "time"),
        **each("rating", "response", RATED, [("nothing", None), *OTHER], "response"),
        **each("rating", "prompt", RATED, [("nothing", None), *OTHER], "prompt"),
        **each("rating", "model", RATED, [("a number", 3), ("a list", ["x"])], "model"),
        **each("rating", "note", RATED, [("half a character", HALF)], "note"),
        "a rating and a choice": (RATED | CHOSEN, Bad("rating or a choice")),
        "no annotator at all": ({k: v for k, v in RATED.items() if k != "annotator"},
                                Bad("annotator")),
        "no name of the dimension": (RATED | {"rating.": 3}, Bad("no name")),
    },
}
