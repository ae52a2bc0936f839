"""Zero-loss acknowledgement: a writer is answered only when enough other regions have its block durably.

``tally`` (pure): what the regions report, what that acknowledges, and when a primary without enough of them goes on
degraded. ``acknowledgement``: writers that wait for it. ``confirmations`` (pure): a source's ledger hears it, in its
own terms.
"""

from replicator.pipeline.acknowledge.acknowledgement import Acknowledgement
from replicator.pipeline.acknowledge.tally import AcknowledgeRule
from replicator.pipeline.acknowledge.view import AcknowledgeView

__all__ = ["AcknowledgeRule", "AcknowledgeView", "Acknowledgement"]
