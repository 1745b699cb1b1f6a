"""The lab under attack: damage, kills and concurrency, by the thousand (docs/reliability.md)."""

import os

# Read by the libraries as they load. A BLAS that starts threads in one fork and none in the next, where memory is
# limited, sums in another order.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
