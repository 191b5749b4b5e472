"""What the machine tells of its memory."""

import os
import subprocess
import sys

from openherd.core.machine import memory_bytes, resident_bytes

HOLDS = "held = b'x' * 200_000_000; print(len(held), flush=True); input()"


def test_memory_of_a_process_and_of_the_machine():
    process = subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert 200_000_000 < resident_bytes(process.pid) < 400_000_000
    process.communicate(b"\n")
    assert resident_bytes(process.pid) == 0
    assert resident_bytes(os.getpid()) < memory_bytes()
