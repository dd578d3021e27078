"""Real processes, faults by a seed, and the invariants of architecture §3 checked from outside."""
