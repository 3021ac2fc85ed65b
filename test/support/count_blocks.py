#!/usr/bin/env python3
"""Counts the 4 KiB blocks of files with a set of sha256: an independent check of `uvdo measure`.

Each file begins on a block of its own; a last partial block is filled up with zeros.
Prints JSON: blocks, zeroBlocks, uniqueBlocks, duplicateBlocks.
"""
import hashlib
import json
import sys

BLOCK = 4096
blocks = zero = duplicate = 0
seen = set()
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            blocks += 1
            block = block.ljust(BLOCK, b"\0")
            if block.count(0) == BLOCK:
                zero += 1
                continue
            digest = hashlib.sha256(block).digest()
            if digest in seen:
                duplicate += 1
            seen.add(digest)
print(json.dumps({"blocks": blocks, "zeroBlocks": zero, "uniqueBlocks": len(seen), "duplicateBlocks": duplicate}))
