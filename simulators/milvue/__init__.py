"""The AI service's HTTP API v3 as a real server, with switches for everything it may do wrong."""

from simulators.milvue.server import MilvueSimulator
from simulators.milvue.switches import MilvueSwitches

__all__ = ["MilvueSimulator", "MilvueSwitches"]
