"""From the environment of a process to what pdslurm adds to it, passes on by name, and never shows: proxies and secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Hugging Face's own words, for a container that downloads: pdslurm/node/hub_cache.py mounts what HF_HOME names.
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")
HIDDEN = "***"

# --- secrets: one rule for variables, options and keys alike; tests/unit/plan/test_environment.py has what it must
# and must not take for one.

_WORDS = r"SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|JWT"
_OWNERS = r"API|ACCESS|AUTH|BEARER|REFRESH|SESSION|PRIVATE|HF|HUB|GITHUB|GITLAB"
_SECRET = re.compile(rf"(?:^|_)(?:{_WORDS}|(?:{_OWNERS})_(?:TOKENS?|KEYS?)|HFTOKEN)(?:_|$)|(?:^|_)TOKEN_?\d*$|_KEY_?\d*$")
_PLACE = re.compile(r"_(?:FILE|PATH|DIR|FOLDER|NAME|TYPE|LEN|LENGTH|SIZE|ENV)$")  # it says where the secret is, or how long
_TEXT_TOKEN = re.compile(
    r"(?:^|_)(?:BOS|EOS|PAD|UNK|SEP|CLS|MASK|IMAGE|VIDEO|AUDIO|START|END|STOP|PER|FIRST|LAST|OUTPUT|INPUT)_TOKEN$"
)


def is_secret(name: str) -> bool:
    """Whether a variable, option or key of that name holds a secret.

    >>> is_secret("HF_TOKEN"), is_secret("--api-key"), is_secret("TOKENIZERS_PARALLELISM"), is_secret("long_token_threshold")
    (True, True, False, False)
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).upper().strip("_")
    return bool(_SECRET.search(words)) and not _PLACE.search(words) and not _TEXT_TOKEN.search(words)


# The value is only looked at, so that each name of `--env=HF_TOKEN=abc` is found. `NAME: value` is prose, but in Hydra's {}.
_VALUE = r"""(?=("[^"]*"|'[^']*'|[^\s,;&'"{}\[\]()]+))"""
_ASSIGNED = re.compile(r"""([A-Za-z_][\w.-]*)(["']?\s*=\s*|["']\s*:\s*|:(?=\S))""" + _VALUE)
_MAPPED = re.compile(r"[{,]\s*([A-Za-z_][\w.-]*)(\s*:\s*)" + _VALUE)
_OPTION = re.compile(r"(--[A-Za-z][\w-]*)(\s+)(?!-)(\S+)")
_LOGIN = re.compile(r"(://)[^/\s@'\"]+(?=@)")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")


def secret_in(text: str) -> str | None:
    """The name of what a text gives away: `HF_TOKEN=hf_…` or `--api-key …`, or a URL with a password; None where it does not. What
    a shell will put there (`HF_TOKEN=$(cat …)`) is no secret, nor is what only follows a colon in a sentence."""
    assigned = [match for match in _ASSIGNED.finditer(text) if match[2].strip() != ":"]
    for match in [*assigned, *_MAPPED.finditer(text), *_OPTION.finditer(text)]:
        value = match[3].strip("\"'")
        if is_secret(match[1].rpartition(".")[2]) and value and not value.startswith(("$", "`", HIDDEN)):
            return match[1]
    if re.search(r"://[^/\s:@'\"]+:[^/\s@'\"]+@", text):
        return "a URL with a password"
    return "a Hugging Face token" if _HUB_TOKEN.search(text) else None


def masked(text: str) -> str:
    """`text` with *** for the values of secrets, and for user and password in a URL."""
    text = _LOGIN.sub(rf"\1{HIDDEN}", text)
    matches = [match for pattern in (_ASSIGNED, _MAPPED, _OPTION) for match in pattern.finditer(text)]
    found = {match.span(3) for match in matches if is_secret(match[1].rpartition(".")[2])}
    for start, end in sorted(found, reverse=True):
        text = text[:start] + HIDDEN + text[end:]
    return _HUB_TOKEN.sub(HIDDEN, text)


def masked_argv(argv: Sequence[str]) -> list[str]:
    """A command line's words, each masked, and the word after an option that takes a secret."""
    before = ("", *argv)
    return [
        HIDDEN if last.startswith("--") and "=" not in last and is_secret(last) and not word.startswith("-") else masked_word(word)
        for last, word in zip(before, argv, strict=False)
    ]


def masked_word(word: str) -> str:
    """One word of a command line: an override's whole value is hidden, whatever characters it has."""
    name, equals, _ = word.partition("=")
    return f"{name}={HIDDEN}" if equals and is_secret(name.rpartition(".")[2]) else masked(word)


# --- proxies


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that name a proxy, as they are spelled, with their values."""
    return {name: value for name, value in environ.items() if name.lower() in PROXIES and value}


def no_proxy(hosts: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """no_proxy and NO_PROXY: what was there, loopback, and `hosts`, each by itself, for Python knows no CIDR.

    A lone `*` bypasses every proxy for Python and curl, but not in a list, so it stays alone in no_proxy. For vllm-router it may
    cover no address; it reads NO_PROXY first, where the addresses stand beside it."""
    there = [part.strip() for name in ("no_proxy", "NO_PROXY") for part in environ.get(name, "").split(",")]
    whole = ",".join(dict.fromkeys(part for part in (*there, *LOOPBACK, *hosts) if part))
    return {"no_proxy": "*" if "*" in there else whole, "NO_PROXY": whole}


def proxy_note(found: Mapping[str, str]) -> str:
    """What the preflight says of proxies that are set; empty where none is."""
    if not found:
        return ""
    named = ", ".join(f"{name}={masked(value)}" for name, value in sorted(found.items()))
    are, it = ("is", "it") if len(found) == 1 else ("are", "them")
    return f"{named} {are} set; pdslurm keeps {it} for downloads and bypasses {it} for loopback and for the nodes of the run"


def proxy_hint(said: str, environ: Mapping[str, str]) -> str:
    """What an error adds to an answer that a proxy may have given; empty where no proxy is set or nothing speaks for one."""
    found = proxies(environ)
    if not found or not re.search(r"\b(40[37]|50[234])\b|proxy|squid|\bvia:|x-cache|<html|gateway|forbidden", said, re.IGNORECASE):
        return ""
    named = ", ".join(f"{name}={masked(value)}" for name, value in sorted(found.items()))
    return f"\n  a proxy may have answered: {named}; pdslurm bypasses it for the nodes of the run, so look at no_proxy there"


# --- what a container gets of its node's environment


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a container gets from its node by name: proxies, secrets, and whether the hub is to be asked. A value with
    a line break stays outside: enroot cannot pass it on."""
    wanted = {name: value for name, value in environ.items() if name in OFFLINE or is_secret(name)} | proxies(environ)
    return {name: value for name, value in wanted.items() if value and "\n" not in value}
