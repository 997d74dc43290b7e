"""The demonstration behind `make demo`: a real encoder on eight tasks, from fine-tuning to an edited model."""

from taskvec.demo.result import DemoResult as DemoResult
from taskvec.demo.run import run_demo as run_demo
