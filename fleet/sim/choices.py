"""Choosing between the values of an enum, and yes or no, by plain evidence: paths and keywords, no chance in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fleet.sim.asked import words_of
from fleet.sim.evidence import Evidence

#: (words of an enum value, pattern of a path that speaks for it, words of a text that speak for it)
_TABLE: tuple[tuple[str, str, str], ...] = (
    ("test tests testing", r"(^|/)tests?(/|_)|_test\.|conftest|\.spec\.|\.test\.", "pytest unittest fixture"),
    (
        "config configuration settings",
        r"(^|/)(config|settings|conf)\b|\.(toml|ya?ml|ini|cfg|env)$|setup\.py$",
        "configuration settings",
    ),
    ("doc docs documentation", r"\.(md|rst|txt)$|(^|/)docs?/", "guide readme tutorial"),
    (
        "cli command entry entrypoint script main",
        r"(^|/)(cli|__main__|main|manage)\.|(^|/)(bin|scripts)/",
        "argparse typer click argv",
    ),
    (
        "api web server http route view handler interface",
        r"(^|/)(api|server|views?|routes?|http|handlers?|app)\b",
        "route http endpoint starlette fastapi flask",
    ),
    (
        "model schema data entity type domain",
        r"(^|/)(models?|schemas?|types?|entities|jobs)\.",
        "dataclass basemodel field frozen",
    ),
    (
        "store storage database persistence repository",
        r"(^|/)(store|storage|db|database|repository)\b",
        "redis sql transaction",
    ),
    ("util utility utils helper common support", r"(^|/)(utils?|helpers?|common|support)\b", "helper"),
    (
        "worker task queue job pipeline scheduler",
        r"(^|/)(workers?|tasks?|queues?|pool|dispatcher)\b",
        "celery queue task dispatch",
    ),
    ("package init marker namespace", r"(^|/)__init__\.py$", ""),
    (
        "build ci deploy deployment infra infrastructure ops",
        r"(^|/)(\.ci|\.github|k8s|deploy|docker)|Dockerfile|Makefile",
        "kubernetes container image",
    ),
    ("benchmark", r"(^|/)bench", "benchmark"),
    ("generated vendored", r"_pb2?\.py$|\.min\.|node_modules/", ""),
    ("example sample", r"(^|/)examples?/", "example"),
    ("error errors exception", r"(^|/)(errors?|exceptions?)\.", ""),
    ("python", r"\.pyi?$", "def import"),
    ("javascript typescript", r"\.[jt]sx?$", "const function"),
    ("markdown", r"\.md$", ""),
    (
        "billing payment invoice",
        "",
        "invoice charged charge refund payment paid price card subscription receipt billed vat",
    ),
    (
        "bug defect fault error",
        "",
        "crash crashes error errors fails failed broken exception traceback wrong freezes bug 500 404 stopped",
    ),
    ("feature request enhancement", "", "feature wish add support could suggestion"),
    ("account access login", "", "password login account locked signin access"),
    ("question howto help", "", "how what where question"),
    ("security", "", "security vulnerability leak leaked attack token secret"),
    ("performance slow", "", "slow timeout latency memory cpu"),
    ("positive good happy", "", "great love thanks excellent happy good"),
    ("negative bad angry", "", "bad terrible angry worst disappointed refund"),
    ("high urgent critical", "", "urgent immediately production down outage asap"),
    ("medium normal", "", "soon"),
)
_CUES = [(words_of(keys), re.compile(path or r"(?!)"), words_of(cues)) for keys, path, cues in _TABLE]
_TESTS = _CUES[0][1]
#: A reviewer that found no fault says so.
_ACCEPTING = words_of("accept accepted approve approved pass passed")
_DEFAULTS = words_of("ok yes low neutral")
_FALLBACKS = words_of("other none misc unknown neither general")
_CORE = words_of("library lib core module logic implementation source code application internal service")
#: Paths of files that need no description, and what to say of them.
_NOT_RELEVANT = (
    (
        re.compile(r"(^|/)(tests?|testing|fixtures?)/|(^|/)(test_|conftest)|_test\.|\.(test|spec)\.", re.I),
        "holds tests",
    ),
    (re.compile(r"(^|/)node_modules/|_pb2?\.py$|\.min\.(js|css)$|\.lock$", re.I), "is generated or vendored"),
    (
        re.compile(r"(^|/)(setup|conf|version|_version)\.py$|\.(toml|ya?ml|ini|cfg|json|env|in)$|(^|/)\.", re.I),
        "is configuration",
    ),
    (re.compile(r"\.(png|jpe?g|webp|gif|svg)$|(^|/)(LICENSE|Makefile|Dockerfile)", re.I), "is no source code"),
)
_WORDS = re.compile(r"[a-z0-9]+")


def choose(options: Sequence[Any], evidence: Evidence) -> Any:
    """The option with the most evidence; without any, the one that says so (`other`), else the first."""
    scores = [_score(str(option), evidence) for option in options]
    return options[scores.index(max(scores))]


def decide(name: str, evidence: Evidence) -> bool:
    """Yes or no to the property called `name`."""
    words = _WORDS.findall(name.lower())
    if _ACCEPTING & set(words):
        return True
    if {"relevant", "public", "important", "include", "keep", "document"} & set(words):
        return is_relevant(evidence)
    if {"test", "tests"} & set(words):
        return bool(_TESTS.search(evidence.path))
    if {"empty", "missing", "invalid", "failed", "error", "rework"} & set(words):
        return not evidence.material.strip()
    said = evidence.words
    return any(word in said for word in words if len(word) > 3) or {"ok", "valid", "done", "pass"} & set(words) != set()


def is_relevant(evidence: Evidence) -> bool:
    """Whether a file is worth describing: not tests, packaging, configuration, or files with nothing in them."""
    return not why_not_relevant(evidence)


def why_not_relevant(evidence: Evidence) -> str:
    """What speaks against describing a file, as the end of a sentence about it; empty when nothing does."""
    if not evidence.material.strip():
        return "is empty"
    for pattern, why in _NOT_RELEVANT:
        if evidence.path and pattern.search(evidence.path):
            return why
    if evidence.path.endswith("__init__.py") and not evidence.names_defined:
        return "only marks a package"
    return ""


def _score(option: str, evidence: Evidence) -> float:
    words = set(_WORDS.findall(option.lower()))
    words |= {word.removesuffix("s") for word in words}
    if words & _FALLBACKS:
        return 0.2
    if words & _ACCEPTING:
        return 100.0
    said = evidence.words
    # Code speaks by its path and by what it is; single words in it say little.
    weight = 0.4 if evidence.is_code else 1.0
    score = 0.3 if words & _DEFAULTS else 0.0
    if words & _CORE and evidence.names_defined:
        score += 1.5
    for keys, path, cues in _CUES:
        if words & keys:
            score += 5 * bool(path.search(evidence.path)) + weight * len(cues & said)
    return score + weight * sum(0.6 for word in words if len(word) > 2 and word in said)
