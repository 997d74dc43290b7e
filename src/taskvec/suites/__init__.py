"""Suites: real tasks, their data, frozen heads, and the encoders they run on."""

from taskvec.suites.batches import Bucketed as Bucketed
from taskvec.suites.batches import bucketed as bucketed
from taskvec.suites.batches import logits_of as logits_of
from taskvec.suites.docs8 import docs8 as docs8
from taskvec.suites.docs8 import docs8_subsets as docs8_subsets
from taskvec.suites.encoder import Batch as Batch
from taskvec.suites.encoder import Encoder as Encoder
from taskvec.suites.encoder import TextEncoder as TextEncoder
from taskvec.suites.encoder import base_source as base_source
from taskvec.suites.head import Head as Head
from taskvec.suites.head import class_name_head as class_name_head
from taskvec.suites.head import heads_of as heads_of
from taskvec.suites.linearize import Linearized as Linearized
from taskvec.suites.linearize import LinearizedEncoder as LinearizedEncoder
from taskvec.suites.modules import ModuleEncoder as ModuleEncoder
from taskvec.suites.named import SUITES as SUITES
from taskvec.suites.named import suite_named as suite_named
from taskvec.suites.task import Split as Split
from taskvec.suites.task import Suite as Suite
from taskvec.suites.task import Task as Task
from taskvec.suites.text_suites import text8 as text8
from taskvec.suites.text_suites import text12 as text12
