"""A datastore: the activations of a text and the labels that followed, on the disk, for kNN-LM (Khandelwal et al.)."""

from firstsight.memory.datastore.edit import compact, join
from firstsight.memory.datastore.index import Index
from firstsight.memory.datastore.store import Datastore
from firstsight.memory.datastore.writer import DatastoreWriter

__all__ = ["Datastore", "DatastoreWriter", "Index", "compact", "join"]
