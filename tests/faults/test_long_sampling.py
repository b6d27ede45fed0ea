"""A thousand decodes of fifty sizes: no more memory at the end than at the start, and each seed its own images.

(Compilations are counted in packages/ssdd-decoder/tests.)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

MIB = 2**20
DECODES = 1000


def decode(count, seed):
    command = [sys.executable, str(Path(__file__).with_name("decode_many.py")), str(count), str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_thousand_decodes_take_no_more_memory_and_are_their_seeds(chance, tally):
    seed = chance.randrange(1000)
    told = decode(DECODES, seed)
    resident = told["resident"]
    assert max(resident[3:]) - resident[2] < 8 * MIB, [number // MIB for number in resident]
    assert decode(200, seed)["hashes"] == told["hashes"][:2]
    assert decode(100, seed + 1)["hashes"] != told["hashes"][:1]
    tally("decodes", tried=DECODES, survived=DECODES)
