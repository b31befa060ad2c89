"""Dialogues as people write them down, as turns, and as the text a model continues.

A turn is `{"role": "system" | "user" | "assistant" | "tool", "content": text}`. As text, every turn
begins with a blank line and its speaker, as in Anthropic's HH: "\\n\\nHuman: …\\n\\nAssistant: …".
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from helpers.engine.values import shown

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SYSTEM, TOOL = "\n\nSystem:", "\n\nTool:"
MARKERS = {"user": HUMAN, "assistant": ASSISTANT, "system": SYSTEM, "tool": TOOL}
SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system", "Tool": "tool"}
TURN = re.compile("\n\n(Human|Assistant):")
RARE_TURN = re.compile("\n\n(Human|Assistant|System|Tool):")
# A speaker at the start of a line: after a blank line that may hold spaces, or first of all.
LOOSE = re.compile(r"(?:\A\s*|\n[^\S\n]*\n\s*)(Human|Assistant|System|Tool)[^\S\n]*:")
# The same where a text has no blank lines before its speakers.
TIGHT = re.compile(r"(?:\A\s*|\n\s*)(Human|Assistant|System|Tool)[^\S\n]*:")
ROLES = {  # of OpenAI and TRL, ShareGPT, the arena, OpenAssistant
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "chatbot": "assistant", "bing": "assistant", "bard": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}
Turn = dict[str, str]


class IrregularRow(ValueError):
    """A row that public datasets are known to contain now and then; set aside and counted."""


def render_prompt(prompt: str | Sequence[Turn]) -> str:
    """Text or message list to the string a model continues, ending in `\\n\\nAssistant:`.

    A string that is a dialogue already, with its speakers written in the manner of HH, gets its
    markers put right and nothing twice; any other is one human turn.
    """
    if isinstance(prompt, str):
        if is_dialogue(prompt):
            text = tidy(prompt).rstrip()
            return text if text.endswith(ASSISTANT) else text + ASSISTANT
        return f"{HUMAN} {prompt.strip()}{ASSISTANT}"
    return "".join(f"{MARKERS[m['role']]} {m['content'].strip()}" for m in prompt) + ASSISTANT


def render_example(prompt: str, response: str) -> str:
    """Prompt and response as one text, without the end-of-text token."""
    return f"{render_prompt(prompt)} {response.strip()}"


def is_dialogue(text: str) -> bool:
    """Whether a text begins with the human speaker's marker, or the system's before it."""
    if text.startswith(HUMAN):
        return True
    start = text[:40].lstrip()
    return start.startswith(("Human:", "Human :")) or (
        start.startswith("System:") and "Human:" in text)


def tidy(text: str) -> str:
    """An HH string with its markers as they should be: other line ends, spaces, blank lines."""
    if text.startswith(HUMAN) and "\r" not in text and " :" not in text and (
            text.count("Human:") == text.count(HUMAN)
            and 0 < text.count("Assistant:") == text.count(ASSISTANT)):  # found quickly
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    loose = LOOSE.sub(lambda found: f"\n\n{found[1]}:", text)
    if ASSISTANT not in loose and (tight := TIGHT.sub(lambda f: f"\n\n{f[1]}:", text)) != loose:
        return tight
    return loose


def parse_hh(text: str) -> tuple[list[Turn], str]:
    """An Anthropic HH string to its turns before the last answer, and that answer.

    Raises:
        IrregularRow: it does not start with a human turn, or does not end with an assistant's.
    """
    before, response = cut_hh(text)
    return turns_of(before), response


def cut_hh(text: str) -> tuple[str, str]:
    """All turns but the last assistant's, which begin with a blank line each, and that one."""
    text = tidy(text)
    if not text.startswith((HUMAN, SYSTEM)):
        raise IrregularRow("the text does not start with 'Human:'")
    cut = text.rfind(ASSISTANT)
    if cut < 0:
        raise IrregularRow("the text has no 'Assistant:' turn")
    response = text[cut + len(ASSISTANT):]
    if HUMAN in response:
        raise IrregularRow("the text ends with a human turn, so it has no answer")
    return text[:cut], response.strip()


def turns_of(text: str) -> list[Turn]:
    """The turns of a text as `tidy` leaves it."""
    turn = RARE_TURN if SYSTEM in text or TOOL in text else TURN
    _, *parts = turn.split(text)
    return [{"role": SPEAKERS[speaker], "content": said.strip()}
            for speaker, said in zip(parts[::2], parts[1::2], strict=True)]


def hh_prompt(before: str) -> str | None:
    """The turns of a text from `cut_hh` as they are rendered, or None when they do not alternate.

    A text with the two usual speakers only is cut at every human turn, each piece but the last of
    which must then hold one of the assistant's; making turns of it takes twice as long.
    """
    if not before.startswith(HUMAN) or SYSTEM in before or TOOL in before:
        turns = turns_of(before)
        return render_prompt(turns) if alternate(turns) else None
    _, *answered, last = before.split(HUMAN)
    rendered = ""
    for exchange in answered:
        asked, assistant, answer = exchange.partition(ASSISTANT)
        if not assistant or ASSISTANT in answer:
            return None
        rendered += f"{HUMAN} {asked.strip()}{ASSISTANT} {answer.strip()}"
    return None if ASSISTANT in last else f"{rendered}{HUMAN} {last.strip()}{ASSISTANT}"


def alternate(turns: Sequence[Turn]) -> bool:
    """Whether user and assistant take turns, the user first and last.

    What the system says does not count, nor a call of a tool with what the tool answers.
    """
    roles = [turn["role"] for turn in turns]
    if "tool" in roles:
        roles = [role for role, then in zip(roles, [*roles[1:], ""], strict=True) if then != "tool"]
    said = [role for role in roles if role in ("user", "assistant")]
    return said == ["user", "assistant"] * (len(said) // 2) + ["user"]


# ----------------------------------------------------------------------------- message lists


def is_messages(value: Any) -> bool:
    """Whether a value is a list of turns, in the manner of OpenAI or of ShareGPT."""
    return isinstance(value, list | tuple | np.ndarray) and len(value) > 0 and all(
        isinstance(m, dict) and ({"role", "content"} <= set(m) or {"from", "value"} <= set(m)
                                 or {"role", "tool_calls"} <= set(m)) for m in value)


def unwritten(value: Any) -> Any:
    """A list that a table holds as text, JSON or Python's way of writing it; else the value."""
    if isinstance(value, str) and value.startswith(HUMAN):  # by far the commonest
        return value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, str) or value[:20].lstrip()[:1] not in ("[", "{") or not re.match(
            r"\s*\[?\s*\{\s*['\"](role|content|from|value|type)['\"]\s*:", value):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise ValueError("looks like a list of messages and is not valid JSON; write such lists as "
                     "JSON, or the table as JSON lines or Parquet")


def messages(value: Any, where: str) -> list[Turn]:
    """Message lists in any of the usual manners to turns.

    Args:
        value: a list of `role` and `content` (OpenAI, TRL; content a text, or parts of
            `{"type": "text", "text": …}`) or of `from` and `value` (ShareGPT).
        where: the field, for messages of errors.

    Raises:
        ValueError: a turn that cannot be meant.
        IrregularRow: a turn without text, as public datasets hold some.
    """
    return [_turn(m, f"{where!r}, turn {n}") for n, m in enumerate(value, 1)]


def _turn(message: dict[str, Any], where: str) -> Turn:
    named = message.get("role", message.get("from"))
    role = ROLES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        raise ValueError(f"{where}: the role {named!r} is not known; use user, assistant, system "
                         "or tool")
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls") or message.get("function_call")
    text = "" if content is None and calls else content_text(content, where)
    if calls:
        written = json.dumps(calls, ensure_ascii=False, default=str)
        text = f"{text}\n{written}" if text else written
    return {"role": role, "content": text}


def content_text(content: Any, where: str) -> str:
    """The text of a message's content; parts of it stand below one another."""
    if isinstance(content, str):
        return checked_text(content, where)
    if content is None:
        raise IrregularRow(f"{where}: its content is null")
    if isinstance(content, np.ndarray):
        content = content.tolist()
    if not isinstance(content, list):
        raise ValueError(f"{where}: its content is {shown(content)}; it must be text")
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type", "part") if isinstance(part, dict) else shown(part)
            raise IrregularRow(f"{where}: its content holds a part that is no text ({kind})")
        parts.append(checked_text(text, where))
    return "\n".join(parts)


def checked_text(text: str, where: str) -> str:
    """The text, if every character of it is one."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = where if where.startswith("'") else repr(where)
        raise ValueError(f"{where} holds half a character ({text[error.start]!a} at position "
                         f"{error.start}); save the text again as UTF-8") from None
    return text
