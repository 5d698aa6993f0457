"""Prompt caching as the vendor bills it: the longest prefix seen before, from 1,024 tokens on, in steps of 128.

Source: the vendor's guide on prompt caching. Prefixes are compared in blocks of 512 bytes, about 128 tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from fleet.tokens import estimate_tokens

BLOCK_BYTES = 512
MIN_TOKENS = 1024
STEP_TOKENS = 128
MAX_BLOCKS = 200_000


class PrefixCache:
    """Remembers the prefixes of prompts, the most recent 200,000 blocks (100 MB of text)."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def cached_tokens(self, model: str, text: str, key: str = "") -> int:
        """Tokens of the longest prefix of `text` that this model was sent before; remembers all of it.

        `key`: the caller's `prompt_cache_key`. The vendor routes by it, with the prompt's beginning, to machines that have caches
        of their own: here calls with another key never meet the same one.
        """
        data = text.encode("utf-8", "replace")
        if len(data) < 2 * MIN_TOKENS:
            return 0
        chain = blake2b(f"{model}\n{key}".encode(), digest_size=8)
        known, matching = 0, True
        for start in range(0, len(data) - BLOCK_BYTES + 1, BLOCK_BYTES):
            chain.update(data[start : start + BLOCK_BYTES])
            block = chain.digest()
            if block in self._seen:
                self._seen.move_to_end(block)
                known += matching
            else:
                matching = False
                self._seen[block] = None
        while len(self._seen) > MAX_BLOCKS:
            self._seen.popitem(last=False)
        tokens = estimate_tokens(data[: known * BLOCK_BYTES].decode("utf-8", "ignore"))
        return tokens // STEP_TOKENS * STEP_TOKENS if tokens >= MIN_TOKENS else 0
