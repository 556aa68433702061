"""What must be set before torch is imported, which reads it once; tools import this first.

How OpenMP's threads wait for each other: by default GNU's OpenMP, that of torch's wheels, lets a
thread spin for milliseconds. Where anything else runs on the CPUs (another job, data loaders), it
spins in the place of the thread it waits for, and training takes several times as long. 1000 turns,
what it takes itself where it has more threads than CPUs, then sleep: on an idle machine small
networks lose up to a third by it, and half or more if the threads do not spin at all
(OMP_WAIT_POLICY=PASSIVE).

And no warning of what fvcore does when it is imported, which no user can help.
"""

import os
import warnings

if "OMP_WAIT_POLICY" not in os.environ:  # the user's choice, which the count would override
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
