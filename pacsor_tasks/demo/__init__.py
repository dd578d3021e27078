"""A gateway with simulated peers around it, and one real study through it: `pacsor demo`."""
