"""A simulated TechCare Report API, and the Web PubSub it gives access to."""

from simulators.tcr.server import TcrSimulator

__all__ = ["TcrSimulator"]
