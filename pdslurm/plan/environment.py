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

_WORDS = r"SECRETS?|(?:PG)?PASSWORDS?|PASSWD|SSHPASS|PASSPHRASE|CREDENTIALS?|APIKEY|JWT|AUTH_CONFIG|CONNECTION_STRING"
_OWNERS = r"API|ACCESS|AUTH|BEARER|REFRESH|SESSION|PRIVATE|HF|HUB|GITHUB|GITLAB"
_SECRET = re.compile(
    rf"(?:^|_)(?:{_WORDS}|(?:{_OWNERS})_(?:TOKENS?|KEYS?)|HFTOKEN)(?:_|$)|(?:^|_)TOKEN_?\d*$|_KEY_?\d*$"
    r"|(?:^|_)(?:AUTHORIZATION|(?:GITHUB|GITLAB|GH)_PAT|(?:MYSQL|DB|USER|ADMIN)_PWD)$"  # PWD alone is a folder
)
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
_LISTED = re.compile(r"""(--[A-Za-z][\w-]*)(["']?\s*,\s*)(?!["']?-)""" + _VALUE)  # two words of a list: `[--hf-token,abc]`
_PAIRS = (_ASSIGNED, _MAPPED, _OPTION, _LISTED)

# A password may hold `@` and `:`, so the host is what follows the last `@` before the path. `name:tag@sha256:…` is an image.
_USER = r"(?:(?<=://)|(?<![^\s='\"\[(]))[^/\s:@'\"=\[(]+"
_PASSWORD = re.compile(_USER + r":(?!\$)[^/\s'\"]+(?=@(?!sha256:))")
_LOGIN = re.compile(r"(?<=://)[^/\s'\"]+(?=@(?!sha256:))")
_WEB_LOGIN = re.compile(
    r"\b(?:https?|socks\w*|git\+https?)://(?!\$)[^/\s'\"]+@", re.IGNORECASE
)  # a forge takes a token as its user
_HEADER = re.compile(
    r"""(\bbearer\s+|\bauthorization["']?\s*[:=]\s*["']?(?:basic|token|digest)\s+)(?!(?:tokens?|auth\w*)\b)([\w.~+/=-]{6,})""",
    re.IGNORECASE,
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_TOKEN = re.compile(r"\b(?:gh[opsur]_|github_pat_)\w{20,}|(?<![\w-])(?:glpat-|nvapi-|sk-(?=[\w-]*\d))[\w-]{20,}")
# What a text holds that has no name.
LOGIN, HEADER = "a URL with a password or token", "an authorization header"
HUB_TOKEN, TOKEN = "a Hugging Face token", "an access token"
_SHAPES = {LOGIN: (_PASSWORD, _WEB_LOGIN), HEADER: (_HEADER,), HUB_TOKEN: (_HUB_TOKEN,), TOKEN: (_TOKEN,)}


def secret_in(text: str) -> str | None:
    """The name of what a text gives away: `HF_TOKEN=hf_…`, `--api-key …`, a proxy's or another URL's password, a token; None where
    it does not. What a shell will put there (`HF_TOKEN=$(cat …)`) is no secret, nor is what only follows a colon in a sentence."""
    assigned = [match for match in _ASSIGNED.finditer(text) if match[2].strip() != ":"]
    for match in [*assigned, *(match for pattern in _PAIRS[1:] for match in pattern.finditer(text))]:
        name, value = match[1].rpartition(".")[2], match[3].strip("\"'")
        if is_secret(name) and value and not value.startswith(("$", "`", HIDDEN)):
            return match[1]
        if is_proxy_login(name, value):
            return LOGIN
    return next((what for what, patterns in _SHAPES.items() if any(pattern.search(text) for pattern in patterns)), None)


def masked(text: str) -> str:
    """`text` with *** for the values of secrets, and for user and password in a URL."""
    text = _HEADER.sub(rf"\1{HIDDEN}", _PASSWORD.sub(HIDDEN, _LOGIN.sub(HIDDEN, text)))
    matches = [match for pattern in _PAIRS for match in pattern.finditer(text)]
    found = {match.span(3) for match in matches if is_secret(match[1].rpartition(".")[2])}
    for start, end in sorted(found, reverse=True):
        text = text[:start] + HIDDEN + text[end:]
    return _TOKEN.sub(HIDDEN, _HUB_TOKEN.sub(HIDDEN, text))


def masked_argv(argv: Sequence[str]) -> list[str]:
    """A command line's words, each masked, and the word after an option that takes a secret."""
    before = ("", *argv)
    return [
        HIDDEN if last.startswith("--") and "=" not in last and is_secret(last) and not word.startswith("-") else masked_word(word)
        for last, word in zip(before, argv, strict=False)
    ]


def masked_word(word: str) -> str:
    """One word of a command line: an override's whole value is hidden, whatever characters it has."""
    name, equals, value = word.partition("=")
    key = name.rpartition(".")[2]
    if equals and is_proxy_login(key, value):
        return f"{name}={masked_proxy(value)}"
    return f"{name}={HIDDEN}" if equals and is_secret(key) else masked(word)


# --- proxies


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that name a proxy, as they are spelled, with their values."""
    return {name: value for name, value in environ.items() if name.lower() in PROXIES and value}


def is_proxy_login(name: str, value: str) -> bool:
    """Whether the variable names a proxy, and its value a password or, without one, a user there, that no shell puts there."""
    login, at, _ = value.rpartition("@")
    user, _, password = login.rpartition("://")[2].partition(":")
    return name.lower() in PROXIES and bool(at) and not (password or user).startswith(("$", HIDDEN))


def masked_proxy(value: str) -> str:
    """A proxy without user and password, which may hold any character and stand without a scheme.

    >>> masked_proxy("http://me:p@ss/word@squid:3128"), masked_proxy("me:pw@squid:3128"), masked_proxy("squid:3128")
    ('http://***@squid:3128', '***@squid:3128', 'squid:3128')
    """
    return re.sub(r"^(\w[\w+.-]*://)?.*@", rf"\1{HIDDEN}@", value, flags=re.DOTALL)


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
    named = ", ".join(f"{name}={masked_proxy(value)}" for name, value in sorted(found.items()))
    are, it = ("is", "it") if len(found) == 1 else ("are", "them")
    return f"{named} {are} set; pdslurm keeps {it} for downloads and bypasses {it} for loopback and for the nodes of the run"


def proxy_hint(said: str, environ: Mapping[str, str]) -> str:
    """What an error adds to an answer that a proxy may have given; empty where no proxy is set or nothing speaks for one."""
    found = proxies(environ)
    if not found or not re.search(r"\b(40[37]|50[234])\b|proxy|squid|\bvia:|x-cache|<html|gateway|forbidden", said, re.IGNORECASE):
        return ""
    named = ", ".join(f"{name}={masked_proxy(value)}" for name, value in sorted(found.items()))
    return f"\n  a proxy may have answered: {named}; pdslurm bypasses it for the nodes of the run, so look at no_proxy there"


# --- what a container gets of its node's environment


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a container gets from its node by name: proxies, secrets, and whether the hub is to be asked. A value with
    a line break stays outside: enroot cannot pass it on."""
    wanted = {name: value for name, value in environ.items() if name in OFFLINE or is_secret(name)} | proxies(environ)
    return {name: value for name, value in wanted.items() if value and "\n" not in value}
