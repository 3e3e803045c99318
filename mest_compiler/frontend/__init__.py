"""From a torch module to a training step in Relax: capture (torch to ATen), translate (ATen to Relax), ops
(the mest.* Relax operators).
"""

from .ops import plain_legalizations
from .trace import trace
from .training_graph import Convolution, TrainingGraph

__all__ = ["Convolution", "TrainingGraph", "plain_legalizations", "trace"]
