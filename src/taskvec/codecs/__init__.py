"""How one delta becomes tensors on disk and comes back: one class a file, found by name."""

from taskvec.codecs._codec import get as get
from taskvec.codecs._codec import names as names
