"""One torch thread per process, whoever starts pytest: two threads on a busy core are 20 times slower than one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
