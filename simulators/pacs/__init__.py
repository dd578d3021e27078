"""A PACS as a real storage SCP: takes everything, or fails the way it is told to."""

from simulators.pacs.server import PacsSimulator
from simulators.pacs.switches import PacsSwitches

__all__ = ["PacsSimulator", "PacsSwitches"]
