"""Sets how OpenMP's threads wait for each other; to be imported before torch, which reads it once.

By default GNU's OpenMP, that of torch's wheels, lets a thread spin for milliseconds. Where anything
else runs on the CPUs (another job, data loaders), it spins in the place of the thread it waits for,
and training takes several times as long. 1000 turns, what it takes itself where it has more
threads than CPUs, then sleep: on an idle machine small networks lose up to a third by it, and half
or more if the threads do not spin at all (OMP_WAIT_POLICY=PASSIVE).
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:  # the user's choice, which the count would override
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
