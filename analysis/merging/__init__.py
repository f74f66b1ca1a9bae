"""Several runs, made in pieces or on several machines, become one run."""
