"""The program of a worker process, see `crew.Processes`."""

import sys

from kdaug_jax.images.crew import serve

if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
