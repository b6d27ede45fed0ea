"""Decodes images of many sizes and prints what it took: decode_many.py COUNT SEED.

Prints a line of JSON: resident bytes after each hundred decodes, and a hash of each hundred images.
"""

import hashlib
import json
import random
import sys

import psutil
import torch

from ssdd_decoder import Decoder


def main(count: int, seed: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder("debug").eval()
    chance = random.Random(seed)
    shapes = [(chance.randint(1, 3), chance.randint(1, 8), chance.randint(1, 8)) for _ in range(50)]
    resident, hashes = [], []
    for _ in range(count // 100):
        digest = hashlib.sha256()
        order = shapes * 2
        chance.shuffle(order)
        for number, (batch, height, width) in enumerate(order):
            generator = torch.Generator().manual_seed(number)
            z = torch.randn(batch, decoder.config.latent_channels, height, width, generator=generator)
            digest.update(decoder.decode(z, steps=1 + number % 3, generator=generator).numpy().tobytes())
        hashes.append(digest.hexdigest())
        resident.append(psutil.Process().memory_info().rss)
    print(json.dumps({"resident": resident, "hashes": hashes}))


main(int(sys.argv[1]), int(sys.argv[2]))
